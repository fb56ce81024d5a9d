-- Does what the calendar asks for by now: refreshes customers whose standing changes by itself, ends overdue reservations,
-- drops counters of values whose period is long over, and lets the memory of events move on by a generation.
-- KEYS: the partition's meta.  ARGV: tag, how many of each at most, how long events are remembered at least (microseconds).
-- Answers how many customers were due.
local about = use('customer')
local DROPPED_MAX = 512 -- hashes of a forgotten generation, in one script
local IDS_PER_BUCKET = 32 -- small hashes are compact, and so is finding one among this many
local BUCKETS_MIN, BUCKETS_MAX = 16, 65536

local function refresh_one(tag, customer_id, meta, now_seconds, now_us)
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  local ends_us = customer.standing.reservations_end_us
  if ends_us > 0 and ends_us <= now_us then
    use('reservations').end_overdue(customer)
  end
  use('standing').refresh(customer, false, true)
end

-- How many were due, and the first error: one customer whose keys are broken holds up nobody else.
local function refresh_due(tag, most, meta, now_seconds, now_us)
  local due = redis.call('ZRANGEBYSCORE', tag .. 'changes', '-inf', now_us, 'LIMIT', 0, most)
  local broken = nil
  for _, customer_id in ipairs(due) do
    local done, fault = pcall(refresh_one, tag, customer_id, meta, now_seconds, now_us)
    if not done and type(fault) == 'table' and fault.code then
      redis.call('ZREM', tag .. 'changes', customer_id) -- its policy is gone: there is nothing to derive a standing from
    elseif not done then
      broken = broken or fault
    end
  end
  return #due, broken
end

local function drop_expired(tag, most, now_seconds)
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', tag .. 'expiring', '-inf', now_seconds, 'LIMIT', 0, most)) do
    redis.call('UNLINK', key)
    redis.call('ZREM', tag .. 'expiring', key)
  end
end

-- A generation lasts until it is old enough by the clock; one that was put back only starts the count again.
local function forget(tag, meta, now_us, window_us)
  local generation, count, count_before = struct.unpack('>I4I3I3', meta[5])
  local begun = redis.call('HMGET', tag .. 'meta', 'generation_at_us', 'generation_at_seq', 'dropping')
  local begun_us, begun_seq, dropping = tonumber(begun[1]) or 0, tonumber(begun[2]) or 0, tonumber(begun[3])
  if dropping then -- buckets of the generation before the last that are still there
    local left = math.max(0, dropping - DROPPED_MAX)
    for number = left, dropping - 1 do
      redis.call('UNLINK', tag .. 'seen:' .. generation - 2 .. ':' .. number, tag .. 'ended:' .. generation - 2 .. ':' .. number)
    end
    if left > 0 then
      redis.call('HSET', tag .. 'meta', 'dropping', left)
    else
      redis.call('HDEL', tag .. 'meta', 'dropping')
    end
  elseif now_us < begun_us then
    redis.call('HSET', tag .. 'meta', 'generation_at_us', now_us)
  elseif now_us - begun_us >= window_us then
    local wanted = math.ceil((meta[2] - begun_seq) / IDS_PER_BUCKET)
    local size = math.max(BUCKETS_MIN, math.min(BUCKETS_MAX, wanted))
    redis.call(
      'HSET', tag .. 'meta', 'generation', struct.pack('>I4I3I3', generation + 1, size, count), 'generation_at_us', now_us,
      'generation_at_seq', meta[2], 'dropping', count_before
    )
  end
end

return function()
  local tag, most = ARGV[1], tonumber(ARGV[2])
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  local due, broken = refresh_due(tag, most, meta, now_seconds, now_us)
  drop_expired(tag, most, now_seconds)
  forget(tag, meta, now_us, tonumber(ARGV[3]))
  if broken then
    raise(broken)
  end
  return due
end
