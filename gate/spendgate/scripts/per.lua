-- Counters of limits with `per`: a hash for each limit and period, a field for each value; bounded, dropped by the sweep.
local per = {}
local DAY, HOUR = 86400, 3600
local OWN = 10 -- where a rule's own part begins

-- The hash of the period that contains `at` (seconds), the one to look in when it has nothing (nobody moves debts at a
-- boundary), and when it may be dropped; a count of open reservations never is.
function per.hashes_of(customer, rule, at)
  local kind = rule[1]
  local prefix = customer.tag .. 'per:' .. kind .. ':' .. rule[2] .. ':'
  if kind == 'concurrency' then
    return prefix .. '0:' .. customer.id
  end
  if kind == 'quota' then
    local start, ends = use('periods')(rule[OWN], rule[OWN + 1], at)
    return prefix .. (start or 0) .. ':' .. customer.id, nil, (ends or 0) + 2 * DAY
  end
  local units, per_us, burst = unpack(rule, OWN)
  local melts_in = math.ceil(math.ceil(burst * per_us / units) / 1000000)
  local length = math.max(HOUR, melts_in)
  local start = at - at % length
  return prefix .. start .. ':' .. customer.id, prefix .. start - length .. ':' .. customer.id, start + 3 * length
end

-- The counter of the value that `metadata` has at `at` (seconds), and its place; '' where a new value would be one too many.
function per.read(customer, rule, metadata, at)
  local value = use('events').text_of(metadata[rule[8]]) or ''
  if rule[1] == 'rate' then
    at = customer.now_seconds -- a debt belongs to no period
  end
  local key, before, expires = per.hashes_of(customer, rule, at)
  local raw = redis.call('HGET', key, value)
  local place = { key = key, value = value }
  if not raw then
    local count = redis.call('HLEN', key)
    if count == 0 then
      place.expires = expires
      redis.call('ZCARD', customer.tag .. 'expiring') -- written with the first debit: see customer.probe
    end
    raw = before and redis.call('HGET', before, value)
    if not raw and count >= rule[9] then
      raw = ''
    end
  end
  return raw, place
end

function per.full(customer, rule)
  local retry_us = STALE_RETRY_US
  if rule[1] == 'quota' then
    local _, ends = use('periods')(rule[OWN], rule[OWN + 1], customer.now_seconds)
    retry_us = ends and ends * 1000000 - customer.now_us or retry_us
  end
  return rule[4] and 'stop' or 'throttle', 'too_many_values', retry_us
end

function per.keep(customer, rule, place, counter)
  if rule[1] == 'concurrency' and struct.unpack('>I5', counter) == 0 then
    redis.call('HDEL', place.key, place.value)
    return
  end
  redis.call('HSET', place.key, place.value, counter)
  if place.expires then
    redis.call('ZADD', customer.tag .. 'expiring', place.expires, place.key)
  end
end

return per
