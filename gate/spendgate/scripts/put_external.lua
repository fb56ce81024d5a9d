-- Writes what UsageBox counted from other sources for one limit and period.
-- KEYS: counters of the customer.  ARGV: tag, customer id, limit id, period start, amount, requested at (microseconds).
-- Answers 1, or 0 when the period is not the open one or a younger reading is there.
return answer(function()
  local tag, customer_id, limit_id = ARGV[1], ARGV[2], ARGV[3]
  local period_start, amount, requested_at_us = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  local meta = read_meta(tag)
  local customer = read_customer(tag, customer_id, clock_us())
  read_counters(customer)
  for index, limit in ipairs(customer.policy.limits) do
    if limit.id == limit_id and (limit.kind == 'quota' or limit.kind == 'credits') then
      local counter = customer.counters[index] or { 0, 0, 0, 0, {} }
      if limit.kind == 'quota' then
        local open
        counter, open = quota_counter(limit, customer.counters[index], customer.context.now_us)
        if open ~= period_start then
          return 0
        end
      end
      if counter[4] >= requested_at_us then
        return 0
      end
      if counter[2] + amount > MAX_COUNTER then
        refuse('counter_full', limit_id)
      end
      local crossed = {}
      local fired = { unpack(counter[5]) }
      for _, threshold in ipairs(limit.thresholds or {}) do
        if counter[2] + amount >= threshold.at and fires(counter, threshold.name) then
          crossed[#crossed + 1] = { limit_id, threshold.name }
          fired[#fired + 1] = threshold.name
        end
      end
      local after = { counter[1], counter[2], amount, requested_at_us, fired }
      if #crossed > 0 then
        local result = { 'allow', 'external', limit_id, '', customer.standing[1], crossed, 1 }
        append(customer, meta, record_of(customer, meta, 'standing', 'decide', nil, result))
      end
      redis.call('HSET', customer.counters_key, counter_field(limit), pack(after))
      read_counters(customer)
      refresh_customer(customer, meta, false)
      return 1
    end
  end
  return 0
end)
