-- Refreshes the customers whose standing changes by itself now: resets, expiries, ends of throttling.
-- KEYS: the partition's meta.  ARGV: tag, how many at most.  Answers how many were due.
return answer(function()
  local tag, now_us = ARGV[1], clock_us()
  local meta = read_meta(tag)
  local due = redis.call('ZRANGEBYSCORE', tag .. 'changes', '-inf', text_of(now_us), 'LIMIT', 0, ARGV[2])
  for _, customer_id in ipairs(due) do
    local found, customer = pcall(read_customer, tag, customer_id, now_us)
    if found then
      read_counters(customer)
      customer.sweeping = true
      refresh_customer(customer, meta, false)
    elseif type(customer) == 'table' and customer.code then
      redis.call('ZREM', tag .. 'changes', customer_id) -- its policy is gone: there is nothing to derive a standing from
    else
      error(customer, 0)
    end
  end
  return #due
end)
