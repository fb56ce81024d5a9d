-- Open reservations: `reservations:<customer>` (event id -> head and event), ordered by their end in `ends:<customer>`. How
-- one ended is remembered as long as events are, so that a repeated commit finds its answer.
local call, packed, unpacked = redis.call, struct.pack, struct.unpack
local pack, unpack_all = cmsgpack.pack, cmsgpack.unpack
local reservations = {}

local MAX_OPEN = 100000
local OVERDUE_MAX = 100 -- ended in one script
local HEAD = '>I6I5I7I7c32c12c6' -- epoch, sequence, effective at, deadline, policy digest, identity, fingerprint
local ENDED = { commit = 'committed', release = 'released', expire = 'expired' }

local function open_key(customer)
  return customer.tag .. 'reservations:' .. customer.id
end

local function ends_key(customer)
  return customer.tag .. 'ends:' .. customer.id
end

-- Lifetime, longest lifetime and grace, in microseconds; whether one is committed at its deadline; and what happens above.
local function terms_of(policy)
  local lifetime_us, max_lifetime_us, grace_us, at_deadline, above = unpack_all(policy.terms)
  return lifetime_us, max_lifetime_us, grace_us, at_deadline == 'commit', above
end

-- How long after its deadline a reservation is ended.
function reservations.grace(policy)
  return (select(3, terms_of(policy)))
end

function reservations.lifetime(customer, asked_us)
  local lifetime_us, max_lifetime_us = terms_of(customer)
  if asked_us > max_lifetime_us then
    refuse('lifetime_too_long', string.format('%.0f', max_lifetime_us))
  end
  return asked_us > 0 and asked_us or lifetime_us
end

local function read(event_id, raw)
  local epoch, seq, effective_at_us, deadline_us, digest, identity, fingerprint, at = unpacked(HEAD, raw)
  local event_raw = raw:sub(at)
  local event = unpack_all(event_raw)
  return {
    event_id = event_id, stream_id = epoch .. '-' .. string.format('%.0f', seq), effective_at_us = effective_at_us,
    deadline_us = deadline_us, digest = digest, identity = identity, fingerprint = fingerprint,
    quantities = event[1], metadata = event[2], event_raw = event_raw,
  }
end

function reservations.open(customer, event_id)
  local raw = call('HGET', open_key(customer), event_id)
  return raw and read(event_id, raw)
end

-- All open reservations, in any order.
function reservations.all(customer)
  local found, raws = {}, call('HGETALL', open_key(customer))
  for index = 1, #raws, 2 do
    found[#found + 1] = read(raws[index], raws[index + 1])
  end
  return found
end

-- Event ids and their ends: name, score, name, ...
function reservations.ends(customer)
  return call('ZRANGE', ends_key(customer), 0, -1, 'WITHSCORES')
end

-- Puts an end right: when this reservation is ended, or nil for one that is not open.
function reservations.put_end(customer, event_id, ends_at_us)
  if ends_at_us then
    call('ZADD', ends_key(customer), ends_at_us, event_id)
  else
    call('ZREM', ends_key(customer), event_id)
  end
end

function reservations.count(customer)
  return call('HLEN', open_key(customer))
end

-- How the reservation of this identity ended: {stream id, reason, facts}.
function reservations.ended(customer, identity)
  local raw = use('memory').recall(customer, 'ended', identity)
  return raw and unpack_all(raw)
end

function reservations.pairs_of(quantities)
  local meters, list = {}, {}
  for meter in pairs(quantities) do
    meters[#meters + 1] = meter
  end
  table.sort(meters)
  for index, meter in ipairs(meters) do
    list[index] = { meter, quantities[meter] }
  end
  return list
end

function reservations.facts(status, reservation, committed, actual)
  local list = reservations.pairs_of
  local at_us, deadline_us = reservation.effective_at_us, reservation.deadline_us
  return { status, at_us, deadline_us, reservation.stream_id, list(committed or {}), list(actual or {}) }
end

-- When a reservation of the policy in force would be ended; refuses one too many.
function reservations.end_of(customer, deadline_us)
  local _, _, grace_us = terms_of(customer)
  if call('HLEN', open_key(customer)) >= MAX_OPEN then
    refuse('reservations_full', string.format('%.0f', MAX_OPEN))
  end
  call('ZCARD', ends_key(customer)) -- see customer.probe
  return deadline_us + grace_us
end

function reservations.keep(customer, reservation, ends_at_us)
  local epoch, seq = reservation.stream_id:match('^(%d+)-(%d+)$')
  local head = packed(
    HEAD, tonumber(epoch), tonumber(seq), reservation.effective_at_us, reservation.deadline_us, reservation.digest,
    reservation.identity, reservation.fingerprint
  )
  call('HSET', open_key(customer), reservation.event_id, head .. reservation.event_raw)
  call('ZADD', ends_key(customer), ends_at_us, reservation.event_id)
end

-- The first end of the customer's open reservations, 0 without any.
local function first_end(customer)
  return tonumber(call('ZRANGE', ends_key(customer), 0, 0, 'WITHSCORES')[2]) or 0
end

-- The customer under the policy that a reservation was given under, with its counters now: a downgrade honours it. Where
-- that policy is gone, the one in force serves.
function reservations.under(customer, digest)
  local rules = digest ~= customer.digest and call('GET', customer.tag .. 'rules:' .. digest)
  local view = setmetatable({ moves = false }, { __index = customer })
  if rules then
    local parts, fields, limits = use('customer').rules_of(rules)
    view.digest, view.terms, view.fields, view.limits = digest, parts[5], fields, limits
  end
  view.counters = use('customer').counters(view)
  return view
end

-- What is debited for what was really used; above the reservation as the plan says.
local function committed_of(above, held, actual)
  local committed = {}
  for _, pair in ipairs(reservations.pairs_of(actual)) do
    local meter, quantity = pair[1], pair[2]
    local reserved = held[meter] or 0
    if quantity > reserved and above == 'reject' then
      refuse('above_reserved', meter)
    end
    if quantity > reserved and above == 'cap' then
      quantity = reserved
    end
    if quantity > 0 then
      committed[meter] = quantity
    end
  end
  return committed
end

-- Before the first write of an end or an extension, and of a late debit, which has no identity; see customer.probe.
function reservations.probe(customer, identity)
  use('customer').probe(customer)
  call('ZCARD', ends_key(customer))
  if identity then
    use('memory').recall(customer, 'ended', identity)
  end
end

-- Ends a reservation: counters of the periods it named, the record, and the memory of how it ended. `held` false: Redis
-- forgot the reservation, and with it what it had held. Gives the record's id and facts; `refresh` is to follow.
function reservations.finish(customer, reservation, mode, reason, actual, held)
  local view = reservations.under(customer, reservation.digest)
  local _, _, _, _, above = terms_of(view)
  local committed = mode == 'expire' and actual or committed_of(above, reservation.quantities, actual)
  local facts = reservations.facts(ENDED[mode], reservation, committed, actual)
  local ending = {
    held = held and reservation.quantities, committed = committed, metadata = reservation.metadata,
    effective_at_us = reservation.effective_at_us,
  }
  reservations.probe(customer, reservation.identity)
  local id = use('finish')(view, ending, 'finish', mode, reason, reservation.event_raw, pack(facts))
  call('HDEL', open_key(customer), reservation.event_id)
  call('ZREM', ends_key(customer), reservation.event_id)
  use('memory').keep(customer, 'ended', reservation.identity, pack({ id, reason, facts }))
  return id, facts
end

-- Heads and events of the first to end, each followed by its end; and how many are open in all.
function reservations.list(customer, most)
  local ends, found = call('ZRANGE', ends_key(customer), 0, most - 1, 'WITHSCORES'), {}
  for index = 1, #ends, 2 do
    local raw = call('HGET', open_key(customer), ends[index])
    if raw then
      found[#found + 1], found[#found + 2] = raw, ends[index + 1]
    end
  end
  return found, call('ZCARD', ends_key(customer))
end

-- The standing that follows from changed reservations, and its line in the calendar of the sweep.
function reservations.refresh(customer)
  local first = call('ZRANGE', ends_key(customer), 0, 0, 'WITHSCORES')[2]
  customer.counters = use('customer').counters(customer)
  customer.moves = false
  use('standing').refresh(customer, false, false, tonumber(first) or 0)
  customer.counters = use('customer').counters(customer)
end

-- Moves a deadline. Refuses one beyond the plan's longest lifetime.
function reservations.extend(customer, reservation, by_us)
  local view = reservations.under(customer, reservation.digest)
  local _, max_lifetime_us, grace_us = terms_of(view)
  local latest_us = reservation.effective_at_us + max_lifetime_us
  if customer.now_us + by_us > latest_us then
    refuse('extension_too_long', string.format('%.0f', latest_us))
  end
  reservation.deadline_us = math.max(reservation.deadline_us, customer.now_us + by_us)
  reservations.probe(customer, reservation.identity)
  local about, facts = use('customer'), reservations.facts('open', reservation)
  local result = about.result('allow', 'extended', '', '', customer.standing.state)
  local id =
    about.append(customer, about.record(customer, 'finish', 'extend', reservation.event_raw, result, pack(facts)))
  reservations.keep(customer, reservation, reservation.deadline_us + grace_us)
  return id, facts
end

-- Ends what is past its deadline and grace, as its plan says. A dead sweeper must not let anybody wait for a reservation
-- that is no more, so every decision does this for its own customer, too.
function reservations.end_overdue(customer)
  local now_us = customer.now_us
  local due = call('ZRANGEBYSCORE', ends_key(customer), '-inf', now_us, 'LIMIT', 0, OVERDUE_MAX)
  for _, event_id in ipairs(due) do
    local reservation = reservations.open(customer, event_id)
    if reservation then
      local _, _, _, commits = terms_of(reservations.under(customer, reservation.digest))
      local actual = commits and reservation.quantities or {}
      local reason = commits and 'expired_committed' or 'expired'
      local done, fault = pcall(reservations.finish, customer, reservation, 'expire', reason, actual, true)
      if not done and not (type(fault) == 'table' and fault.code) then
        raise(fault)
      elseif not done then
        -- A counter without room for what is committed must not hold up its customer for ever: then it is let go.
        reservations.finish(customer, reservation, 'expire', 'expired', {}, true)
      end
    else
      call('ZREM', ends_key(customer), event_id)
    end
  end
  reservations.refresh(customer)
end

return reservations
