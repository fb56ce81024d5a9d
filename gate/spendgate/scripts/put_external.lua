-- Writes what UsageBox counted from other sources for one limit and period.
-- KEYS: counters of the customer.  ARGV: tag, customer id, limit id, period start, amount, requested at (microseconds).
-- Answers 1, or 0 when the period is not the open one, a younger reading is there, or there is no such limit.
return function()
  local about, tag, customer_id, limit_id = use('customer'), ARGV[1], ARGV[2], ARGV[3]
  local period_start, amount, requested_at_us = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  for index, rule in ipairs(customer.limits) do
    local read_external = not rule[7] and not rule[8] and rule[2] == limit_id and use(rule[1]).read_external
    if read_external then
      local raw = customer.counters[index]
      local counter, names = read_external(rule, raw, amount, requested_at_us, customer, index, period_start)
      if not counter then
        return 0
      end
      about.probe(customer)
      if names then
        local crossed = {}
        for at, name in ipairs(names) do
          crossed[at] = { limit_id, name }
        end
        local result = about.result('allow', 'external', limit_id, '', customer.standing.state, crossed)
        about.append(customer, about.record(customer, 'standing', 'decide', nil, result))
      end
      local fields = {}
      use('kept').keep(customer, index, counter, fields)
      redis.call('HSET', customer.counters_key, unpack(fields))
      customer.counters, customer.moves = about.counters(customer), false
      use('standing').refresh(customer, false, false)
      return 1
    end
  end
  return 0
end
