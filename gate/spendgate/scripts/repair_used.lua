-- Puts right what a quota counted as used, where the books have something else that nothing explains.
-- KEYS: counters of the customer.  ARGV: tag, customer id, limit id, start of the period (seconds), units to add (below 0:
-- to take away), when the counter was read (microseconds of Redis' clock). Whatever is debited meanwhile counts as well.
-- Answers {repaired, stream id, before, after} or {'moved'}: that period or limit isn't counted any more, or it was put
-- right since the reading.
local about = use('customer')
local HEAD, USED_AT = '>I5I7', 5

return function()
  local tag, customer_id, limit_id, start, units = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
  local read_at_us, repaired_key, repaired_field = tonumber(ARGV[6]), tag .. 'repaired', limit_id .. '\n' .. customer_id
  if (tonumber(redis.call('HGET', repaired_key, repaired_field)) or 0) >= read_at_us then
    return { 'moved' }
  end
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  for index, rule in ipairs(customer.limits) do
    local raw = customer.counters[index]
    if rule[1] == 'quota' and rule[2] == limit_id and not rule[8] and raw then
      local began, before = struct.unpack(HEAD, raw)
      if began == start then
        local after = math.max(0, before + units)
        local told = cmsgpack.pack({ { 'used', limit_id, start, '', before, after } })
        local result = about.result('allow', 'repaired', limit_id, '', customer.standing.state)
        about.probe(customer)
        local id = about.append(customer, about.record(customer, 'repair', 'decide', nil, result, nil, told))
        local counter = raw:sub(1, USED_AT) .. struct.pack('>I7', after) .. raw:sub(USED_AT + 8)
        redis.call('HSET', customer.counters_key, customer.fields[index], counter)
        redis.call('HSET', repaired_key, repaired_field, string.format('%.0f', now_us))
        customer.counters = about.counters(customer)
        use('standing').refresh(customer, false, false)
        return { 'repaired', id, before, after }
      end
    end
  end
  return { 'moved' }
end
