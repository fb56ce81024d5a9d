-- Allowed events, and how reservations ended, are remembered in small hashes of one generation each, dropped whole when
-- their time is over. The sweep begins a generation, not the clock, so nothing is forgotten early when the clock jumps.
local memory = {}

-- The hashes of this and the last generation that an identity (12 random bytes) belongs to. `what` is `seen` or `ended`.
local function buckets_of(customer, what, identity)
  local generation, count, count_before = struct.unpack('>I4I3I3', customer.generation)
  local first, second = identity:byte(1, 2)
  local number, prefix = first * 256 + second, customer.tag .. what .. ':'
  return prefix .. generation .. ':' .. number % count, prefix .. generation - 1 .. ':' .. number % count_before
end

function memory.recall(customer, what, identity)
  local now, before = buckets_of(customer, what, identity)
  return redis.call('HGET', now, identity) or redis.call('HGET', before, identity)
end

function memory.keep(customer, what, identity, value)
  redis.call('HSET', (buckets_of(customer, what, identity)), identity, value)
end

return memory
