-- Compares what counters hold for reservations with the reservations that are open, and repairs a difference: nobody is
-- stopped by one that is no more. It looks and writes in one step, so nothing comes between; twice, it does nothing.
-- KEYS: counters of the customer.  ARGV: tag, customer id, how many reservations at most, how many counters of values.
-- Answers {agrees | repaired | too_many, stream id, reservations open, overdue, counters put right}.
local about, reservations, events, per = use('customer'), use('reservations'), use('events'), use('per')
local call, floor = redis.call, math.floor
local HOLDS = { quota = true, credits = true, concurrency = true }

local function period_of(rule, at)
  if rule[1] == 'quota' then
    return (use('periods')(rule[10], rule[11], at))
  end
  return 0
end

-- The hash of a limit with `per` that counts at `at` (seconds); nil where a table of periods is exhausted.
local function hash_of(customer, hashes, rule, at)
  local start = period_of(rule, at)
  if not start then
    return nil
  end
  local key, _, expires = per.hashes_of(customer, rule, at)
  hashes[key] = hashes[key] or { key = key, rule = rule, start = start, expires = expires, expected = {} }
  return hashes[key]
end

-- What the open reservations hold, each under the policy it was given under: units by field and period, and by value in
-- the hashes of limits with `per`. Gives also when each reservation ends.
local function expected_of(customer, open)
  local whole, hashes, ends, views = {}, {}, {}, {}
  for _, rule in ipairs(customer.limits) do
    if rule[8] and HOLDS[rule[1]] then
      hash_of(customer, hashes, rule, customer.now_seconds)
    end
  end
  for _, reservation in ipairs(open) do
    local view = views[reservation.digest] or reservations.under(customer, reservation.digest)
    local at = floor(reservation.effective_at_us / 1000000)
    views[reservation.digest] = view
    ends[reservation.event_id] = reservation.deadline_us + reservations.grace(view)
    for _, rule in ipairs(view.limits) do
      local amount = HOLDS[rule[1]] and events.amount_of(reservation.quantities, rule[3]) or 0
      local concerned = amount > 0 and events.applies(rule[7], reservation.metadata)
      local units = concerned and use(rule[1]).held(rule, amount, reservation) or 0
      if units > 0 then
        if rule[8] then
          local hash, value = hash_of(customer, hashes, rule, at), events.text_of(reservation.metadata[rule[8]]) or ''
          if hash then
            hash.expected[value] = (hash.expected[value] or 0) + units
          end
        else
          local field, start = rule[1] .. ':' .. rule[2], period_of(rule, at)
          if start then
            whole[field] = whole[field] or {}
            whole[field][start] = (whole[field][start] or 0) + units
          end
        end
      end
    end
  end
  return whole, hashes, ends
end

-- Differences of the counters in the customer's hash. A counter that is missing is made anew where its period is the
-- newest; those of earlier periods are kept no longer, and nothing is enforced there.
local function compare_whole(customer, whole, differ)
  local stored, raws, seen = call('HGETALL', customer.counters_key), {}, {}
  for index = 1, #stored, 2 do
    local name, raw = stored[index], stored[index + 1]
    local field = name:sub(1, 1) == '<' and name:sub(2) or name
    local kind = field:match('^(%l+):')
    if kind and HOLDS[kind] then
      local holds, start = use(kind).holds(raw)
      local expected = whole[field] and whole[field][start] or 0
      raws[name], seen[field .. '\n' .. start] = raw, true
      if holds ~= expected then
        differ(field, start, '', holds, expected, { name, use(kind).holding(raw, expected, start) })
      end
    end
  end
  for field, starts in pairs(whole) do
    local kind, newest = field:match('^(%l+):'), -1
    for start in pairs(starts) do
      newest = math.max(newest, start)
    end
    local raw = raws[field]
    local opened = raw and select(2, use(kind).holds(raw)) or -1
    if newest > opened and not seen[field .. '\n' .. newest] then
      local writes = { field, use(kind).holding(false, starts[newest], newest) }
      if raw then
        writes[3], writes[4] = '<' .. field, raw
      end
      differ(field, newest, '', 0, starts[newest], writes)
    end
  end
end

-- Differences of the counters of one limit with `per`. A value without a counter gets one where there is room.
local function compare_values(hash, differ)
  local rule, stored, seen = hash.rule, call('HGETALL', hash.key), {}
  local kind, field, count = use(rule[1]), rule[1] .. ':' .. rule[2], #stored / 2
  hash.found = count
  local function compare(value, raw, expected)
    local holds = raw and kind.holds(raw) or 0
    if holds ~= expected then
      differ(field, hash.start, value, holds, expected, { kind.holding(raw, expected, hash.start), hash = hash })
    end
  end
  for index = 1, #stored, 2 do
    seen[stored[index]] = true
    compare(stored[index], stored[index + 1], hash.expected[stored[index]] or 0)
  end
  for value, expected in pairs(hash.expected) do
    if not seen[value] and count < rule[9] then
      count = count + 1
      compare(value, false, expected)
    end
  end
end

-- A reservation without an end would stay for ever; an end without a reservation is of one that is no more.
local function compare_ends(customer, ends, differ)
  local stored, known = reservations.ends(customer), {}
  for index = 1, #stored, 2 do
    known[stored[index]] = true
    if not ends[stored[index]] then
      differ('deadline:', 0, stored[index], tonumber(stored[index + 1]), 0, {})
    end
  end
  for event_id, ends_at_us in pairs(ends) do
    if not known[event_id] then
      differ('deadline:', 0, event_id, 0, ends_at_us, { ends_at_us = ends_at_us })
    end
  end
end

-- The sweep must come by when the first reservation ends.
local function compare_calendar(customer, ends, differ)
  local first = nil
  for _, ends_at_us in pairs(ends) do
    first = math.min(first or ends_at_us, ends_at_us)
  end
  local noted = customer.standing.reservations_end_us
  local due = first and tonumber(call('ZSCORE', customer.tag .. 'changes', customer.id) or nil)
  if noted ~= (first or 0) or first and (not due or due > first) then
    differ('calendar:', 0, '', noted, first or 0, {})
  end
end

local function apply(customer, difference)
  local writes, kind = difference.writes, difference[1]
  if writes.hash then
    local hash = writes.hash
    local place = { key = hash.key, value = difference[4], expires = hash.found == 0 and hash.expires }
    per.keep(customer, hash.rule, place, writes[1])
  elseif kind == 'deadline' then
    reservations.put_end(customer, difference[4], writes.ends_at_us)
  elseif #writes > 0 then
    call('HSET', customer.counters_key, unpack(writes))
  end
end

return function()
  local tag, customer_id, reservations_max, values_max = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  local count = reservations.count(customer)
  if count > reservations_max then
    return { 'too_many', '', count, 0, 0 }
  end
  local open, overdue = reservations.all(customer), 0
  for _, reservation in ipairs(open) do
    overdue = overdue + (reservation.deadline_us <= now_us and 1 or 0)
  end

  local whole, hashes, ends = expected_of(customer, open)
  local differences, counters = {}, 0
  local function differ(field, start, value, before, after, writes)
    local kind, limit_id = field:match('^(%l+):(.*)$')
    local difference = { kind, limit_id, start, value, before, after }
    difference.writes, difference.order = writes, field .. '\n' .. string.format('%020.0f', start) .. '\n' .. value
    differences[#differences + 1] = difference
    if limit_id ~= '' then
      counters = counters + 1
    end
  end
  compare_whole(customer, whole, differ)
  local values = 0
  for key in pairs(hashes) do
    values = values + call('HLEN', key)
  end
  if values > values_max then
    return { 'too_many', '', count, overdue, 0 }
  end
  for _, hash in pairs(hashes) do
    compare_values(hash, differ)
  end
  compare_ends(customer, ends, differ)
  compare_calendar(customer, ends, differ)
  if #differences == 0 then
    return { 'agrees', '', count, overdue, 0 }
  end

  table.sort(differences, function(a, b)
    return a.order < b.order
  end)
  local told, limit_id = {}, ''
  for index, difference in ipairs(differences) do
    told[index] = { unpack(difference) }
    limit_id = limit_id == '' and difference[2] or limit_id
  end
  local result = about.result('allow', 'repaired', limit_id, '', customer.standing.state)
  local record = about.record(customer, 'repair', 'decide', nil, result, nil, cmsgpack.pack(told))
  about.probe(customer)
  local id = about.append(customer, record)
  for _, difference in ipairs(differences) do
    apply(customer, difference)
  end
  customer.counters, customer.moves = about.counters(customer), false
  local first = reservations.ends(customer)[2]
  use('standing').refresh(customer, false, true, tonumber(first) or 0)
  return { 'repaired', id, count, overdue, counters }
end
