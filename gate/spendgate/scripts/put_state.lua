-- Writes the mirror's view of a customer and the policy it names, unless what is there is newer or of a stronger source.
-- KEYS: counters of the customer.  ARGV: tag, customer id, state, policy digest, policy, its rules,
-- seconds for which it is kept or '': for good.
-- Answers 1 when it is in force, 0 when what is there stays.
return function()
  local about, tag, customer_id = use('customer'), ARGV[1], ARGV[2]
  local key = tag .. 'state:' .. customer_id
  local stored = redis.call('GET', key)
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  if stored == ARGV[3] then
    return 1
  elseif stored and use('states').stays(stored, ARGV[3]) then
    return 0
  end
  local given = { state_raw = ARGV[3], digest = ARGV[4], rules = ARGV[6] }
  use('standing').refresh(about.read(tag, customer_id, meta, now_seconds, now_us, given), true, false)
  redis.call('SET', tag .. 'policy:' .. ARGV[4], ARGV[5])
  redis.call('SET', tag .. 'rules:' .. ARGV[4], ARGV[6])
  redis.call('SET', key, ARGV[3])
  if ARGV[7] ~= '' then
    redis.call('EXPIRE', key, ARGV[7])
  end
  return 1
end
