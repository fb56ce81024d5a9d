-- Writes the mirror's view of a customer and the policy it names. A version only grows.
-- KEYS: counters of the customer.  ARGV: tag, customer id, state, policy digest, policy, its rules, force.
-- Answers 1 when written, 0 when what is there is the same or newer.
return function()
  local about, tag, customer_id, force = use('customer'), ARGV[1], ARGV[2], ARGV[7] == '1'
  local key = tag .. 'state:' .. customer_id
  local stored, written = redis.call('GET', key), cmsgpack.unpack(ARGV[3]:sub(42))
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  if stored == ARGV[3] then
    return 0
  end
  if stored and not force then
    local current = cmsgpack.unpack(stored:sub(42))
    local other = written.version == current.version and written.policy == current.policy
    if written.version < current.version or (other and written.status == current.status) then
      return 0
    end
  end
  local given = { state_raw = ARGV[3], digest = ARGV[4], rules = ARGV[6] }
  use('standing').refresh(about.read(tag, customer_id, meta, now_seconds, now_us, given), true, false)
  redis.call('SET', tag .. 'policy:' .. ARGV[4], ARGV[5])
  redis.call('SET', tag .. 'rules:' .. ARGV[4], ARGV[6])
  redis.call('SET', key, ARGV[3])
  return 1
end
