-- Allowed events, and how reservations ended, are remembered in small hashes of one generation each, dropped whole when
-- their time is over. The sweep begins a generation, not the clock, so nothing is forgotten early when the clock jumps.

local EVENT = '>c6I6I5I7' -- fingerprint, epoch, sequence, decided at

-- The hashes of this and the last generation that an identity (12 random bytes) belongs to. `what` is `seen` or `ended`.
local function buckets_of(customer, what, identity)
  local generation, count, count_before = struct.unpack('>I4I3I3', customer.generation)
  local first, second = identity:byte(1, 2)
  local number, prefix, format = first * 256 + second, customer.tag .. what, string.format
  return format('%s:%d:%d', prefix, generation, number % count),
    format('%s:%d:%d', prefix, generation - 1, number % count_before)
end

-- What is remembered or false, and the hash to keep it in.
local function recall(customer, what, identity)
  local now, before = buckets_of(customer, what, identity)
  return redis.call('HGET', now, identity) or redis.call('HGET', before, identity), now
end

-- `bucket` as `recall` gave it; nil where nobody asked.
local function keep(customer, what, identity, value, bucket)
  redis.call('HSET', bucket or (buckets_of(customer, what, identity)), identity, value)
end

return { EVENT = EVENT, recall = recall, keep = keep }
