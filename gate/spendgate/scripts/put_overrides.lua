-- Replaces a customer's overrides. The version only grows, so a late writer can't bring back what was revoked.
-- KEYS: counters of the customer.  ARGV: tag, customer id, overrides, version.  Answers 1, or 0 when what is there is newer.
return function()
  local about, tag, customer_id = use('customer'), ARGV[1], ARGV[2]
  local key = tag .. 'overrides:' .. customer_id
  local stored = redis.call('GET', key)
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  if stored and cmsgpack.unpack(stored)[1] >= tonumber(ARGV[4]) then
    return 0
  end
  local given = { overrides_raw = ARGV[3] }
  use('standing').refresh(about.read(tag, customer_id, meta, now_seconds, now_us, given), true, false)
  redis.call('SET', key, ARGV[3])
  return 1
end
