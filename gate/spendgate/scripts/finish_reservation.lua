-- Ends or extends a reservation. Exactly one end, whatever races or repeats: whoever comes second is told of the first.
-- KEYS: counters of the customer.  ARGV: tag, customer id, action (commit, release, extend), event as reserved, stream id
-- of the reservation, effective at, identity, actual quantities, microseconds from now (extend).
-- Answers {ended | extended | duplicate, stream id, {reason, facts}, now} or {'error', code, subject}.
local about, reservations = use('customer'), use('reservations')
local REASONS = { commit = 'committed', release = 'released' }

local function same_pairs(left, right)
  for index = 1, math.max(#left, #right) do
    local a, b = left[index], right[index]
    if not a or not b or a[1] ~= b[1] or a[2] ~= b[2] then
      return false
    end
  end
  return true
end

local function answer_of(customer, status, id, reason, facts)
  return { status, id, cmsgpack.pack({ reason, facts }), string.format('%.0f', customer.now_us) }
end

-- It has ended already: the same end is told again, another is refused.
local function repeat_answer(customer, ended, action, actual)
  local id, reason, facts = unpack(ended)
  local same = action == 'commit' and facts[1] == 'committed' and same_pairs(facts[6], reservations.pairs_of(actual))
  if not same and not (action == 'release' and facts[1] == 'released') then
    refuse('reservation_finished', reason)
  end
  return answer_of(customer, 'duplicate', id, reason, facts)
end

return function()
  local tag, customer_id, action, event_raw, stream_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local effective_at_us, identity, actual, by_us = tonumber(ARGV[6]), ARGV[7], cmsgpack.unpack(ARGV[8]), tonumber(ARGV[9])
  local event, now_seconds, now_us = cmsgpack.unpack(event_raw), about.clock()
  local meta = about.meta(tag)
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  use('events').validate(actual, customer.meters, 0)
  local ends_us = customer.standing.reservations_end_us
  if ends_us > 0 and ends_us <= now_us then
    reservations.end_overdue(customer)
  end

  local open = reservations.open(customer, event[4])
  local ended = not open and reservations.ended(customer, identity)
  local known = open and open.stream_id or ended and ended[3][4]
  local by_itself = stream_id:find('^0%-') -- given in an outage, when it had no entry of its own
  if known and known ~= stream_id and not by_itself then
    refuse('reservation_unknown')
  elseif ended then
    return repeat_answer(customer, ended, action, actual)
  elseif action == 'extend' then
    if not open then
      refuse('reservation_unknown')
    end
    local id, facts = reservations.extend(customer, open, by_us)
    reservations.refresh(customer)
    return answer_of(customer, 'extended', id, 'extended', facts)
  elseif not open and tonumber(stream_id:match('^(%d+)-')) >= tonumber(meta[1]) then
    refuse('reservation_unknown') -- it ended so long ago that how is forgotten
  end

  local reservation = open
    or {
      event_id = event[4], stream_id = stream_id, effective_at_us = effective_at_us, deadline_us = 0,
      digest = customer.digest, identity = identity, quantities = event[1], metadata = event[2], event_raw = event_raw,
    }
  local id, facts = reservations.finish(customer, reservation, action, REASONS[action], actual, open)
  reservations.refresh(customer)
  return answer_of(customer, 'ended', id, REASONS[action], facts)
end
