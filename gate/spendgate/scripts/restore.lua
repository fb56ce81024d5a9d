-- Makes a customer in Redis what the store's records add up to (see restored.py), in a partition that is degraded. What nobody
-- can tell from the records, such as use recorded elsewhere, stays as it is.
-- KEYS: the partition's meta.  ARGV: tag, customer id, epoch and sequence that the records go up to, state or '',
-- its policy's digest, the policy, its rules, overrides or '', and what is restored: lists, each after its length.
-- Answers {restored, sequence of the record that says so} or {'moved', sequence}: there are later records.
local about, call = use('customer'), redis.call

local function put_state(tag, customer_id, state, digest, policy, rules)
  if state == '' then
    return
  end
  local key = tag .. 'state:' .. customer_id
  local stored = call('GET', key)
  if stored and use('states').stays(stored, state) then
    return
  end
  call('SET', tag .. 'policy:' .. digest, policy)
  call('SET', tag .. 'rules:' .. digest, rules)
  call('SET', key, state)
end

local function put_overrides(tag, customer_id, overrides)
  local key = tag .. 'overrides:' .. customer_id
  local stored = call('GET', key)
  if overrides ~= '' and not (stored and cmsgpack.unpack(stored)[1] > cmsgpack.unpack(overrides)[1]) then
    call('SET', key, overrides)
  end
end

-- The lists from an argument on, each as a function that calls `take` for every `width` values.
local function lists_from(at)
  local function next_list(width, take)
    local length = tonumber(ARGV[at])
    for index = at + 1, at + length, width do
      take(unpack(ARGV, index, index + width - 1))
    end
    at = at + length + 1
  end
  return next_list
end

return function()
  local tag, customer_id, epoch, sequence = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  if meta[3] ~= DEGRADED then
    refuse('not_degraded')
  end
  if meta[1] ~= epoch or meta[2] ~= sequence then
    return { 'moved', meta[2] }
  end
  put_state(tag, customer_id, ARGV[5], ARGV[6], ARGV[7], ARGV[8])
  put_overrides(tag, customer_id, ARGV[9])
  local before = about.read(tag, customer_id, meta, now_seconds, now_us)
  local each_of, version = lists_from(10), before.standing.version
  each_of(2, function(restored_version, standing)
    version = math.max(version, tonumber(restored_version))
    call('HSET', before.counters_key, '*', standing)
  end)
  each_of(2, function(field, counter)
    call('HSET', before.counters_key, field, counter)
  end)
  each_of(4, function(limit, value, at, counter)
    local hash, _, expires = use('per').hashes_of(before, before.limits[tonumber(limit)], tonumber(at))
    call('HSET', hash, value, counter)
    call('ZADD', tag .. 'expiring', expires, hash)
  end)
  local reservations, ends = tag .. 'reservations:' .. customer_id, tag .. 'ends:' .. customer_id
  call('DEL', reservations, ends)
  each_of(3, function(event_id, entry, ends_at_us)
    call('HSET', reservations, event_id, entry)
    call('ZADD', ends, ends_at_us, event_id)
  end)
  for _, what in ipairs({ 'seen', 'ended' }) do
    each_of(2, function(identity, known)
      use('memory').keep(before, what, identity, known)
    end)
  end

  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  customer.restoring, customer.standing.version = true, version
  local first = use('reservations').ends(customer)[2]
  use('standing').refresh(customer, true, true, tonumber(first) or 0)
  customer.counters = about.counters(customer)
  local result = about.result('allow', 'restored', '', '', customer.standing.state)
  local _, restored = about.append(customer, about.record(customer, 'restored', 'decide', nil, result))
  return { 'restored', restored }
end
