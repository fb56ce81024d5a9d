-- Writes the mirror's view of a customer and the policy it names. A version only grows.
-- KEYS: counters of the customer.  ARGV: tag, customer id, state, policy digest, policy, force.
-- Answers 1 when written, 0 when what is there is the same or newer.
return answer(function()
  local tag, customer_id, force = ARGV[1], ARGV[2], ARGV[6] == '1'
  local key = tag .. 'state:' .. customer_id
  local stored, written = redis.call('GET', key), unpack_one(ARGV[3])
  local meta = read_meta(tag)
  if stored == ARGV[3] then
    return 0
  end
  if stored and not force then
    local current = unpack_one(stored)
    local older = written.version < current.version
    local other = written.version == current.version and written.policy == current.policy
    if older or (other and written.status == current.status) then
      return 0
    end
  end
  redis.call('SET', tag .. 'policy:' .. ARGV[4], ARGV[5])
  redis.call('SET', key, ARGV[3])
  local customer = read_customer(tag, customer_id, clock_us())
  read_counters(customer)
  refresh_customer(customer, meta, true)
  return 1
end)
