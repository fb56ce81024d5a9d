-- Replaces a customer's overrides. The version only grows, so a late writer can't bring back what was revoked.
-- KEYS: counters of the customer.  ARGV: tag, customer id, overrides, version.  Answers 1, or 0 when what is there is newer.
return answer(function()
  local tag, customer_id = ARGV[1], ARGV[2]
  local key = tag .. 'overrides:' .. customer_id
  local stored = redis.call('GET', key)
  local meta = read_meta(tag)
  if stored and unpack_one(stored)[1] >= tonumber(ARGV[4]) then
    return 0
  end
  redis.call('SET', key, ARGV[3])
  local customer = read_customer(tag, customer_id, clock_us())
  read_counters(customer)
  refresh_customer(customer, meta, true)
  return 1
end)
