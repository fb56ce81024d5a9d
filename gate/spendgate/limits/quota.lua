-- Twin of quota.py and counter.py. The rule's own part: window length, its anchor or boundaries, hard cap or false, floor,
-- thresholds (units, name, ...) or false, outage allowance.
local OWN = 10
local packed, unpacked = struct.pack, struct.unpack
local period_at = use('periods')

local COUNTER = '>I5I7I7I7I7I7I7I2c0'

-- Used, external, when that was read, reserved, mirror that was stale, used since, thresholds fired; of that period.
local function read(raw, period_start)
  if raw then
    local start, used, external, external_at_us, reserved, stale_us, stale_used, fired = unpacked(COUNTER, raw)
    if start == period_start then
      return used, external, external_at_us, reserved, stale_us, stale_used, fired
    end
  end
  return 0, 0, 0, 0, 0, 0, ''
end

-- The thresholds that `use` reaches for the first time, and all that have fired then.
local function cross(thresholds, fired, use)
  local crossed = nil
  for index = 1, #thresholds, 2 do
    local name = thresholds[index + 1]
    if use >= thresholds[index] and not (',' .. fired):find(',' .. name .. ',', 1, true) then
      crossed = crossed or {}
      crossed[#crossed + 1] = name
    end
  end
  return crossed and fired .. table.concat(crossed, ',') .. ',' or fired, crossed
end

local function check(rule, amount, raw, context, index)
  local length, anchor, hard_cap, floor, thresholds, allowance = unpack(rule, OWN)
  local start, ends = period_at(length, anchor, context.now_seconds)
  if not start then
    if amount > 0 then
      return 'throttle', 'policy_stale', STALE_RETRY_US
    end
    return nil
  end
  if raw and index and unpacked('>I5', raw) ~= start then
    raw = use('kept').find(context, index, raw, start, false)
    context.counters[index] = raw
  end
  local used, external, external_at_us, reserved, stale_us, stale_used, fired = read(raw, start)
  local left, ends_us = hard_cap and hard_cap - used - external, ends * 1000000
  local spare = left and left - floor
  if amount == 0 then
    return nil, nil, nil, nil, nil, spare, 0, ends_us
  end
  if used + external + reserved + amount > MAX_COUNTER then
    refuse('counter_full', rule[2])
  end
  local denies, reason, retry_us, crossed
  if left and amount > left - reserved then
    denies, reason, retry_us = rule[4] and 'stop' or 'throttle', 'quota_exceeded', ends_us - context.now_us
  end
  if context.stale_mirror_us > 0 then
    stale_used = (stale_us == context.stale_mirror_us and stale_used or 0) + amount
    stale_us = context.stale_mirror_us
    if not denies and stale_used > allowance then
      denies, reason, retry_us = 'throttle', 'mirror_stale', STALE_RETRY_US
    end
  end
  local spent = 0
  if context.reserving then
    reserved = reserved + amount
  else
    used, spent = used + amount, amount
    if thresholds then
      fired, crossed = cross(thresholds, fired, used + external)
    end
  end
  local after = packed(COUNTER, start, used, external, external_at_us, reserved, stale_us, stale_used, #fired, fired)
  return denies, reason, retry_us, after, crossed, spare, spent, ends_us
end

-- The counter after what was used outside the gate was read anew, and the thresholds crossed; nil when a younger reading
-- is there, or when the period is not the open one.
local function read_external(rule, raw, amount, requested_at_us, context, index, period_start)
  local length, anchor, _, _, thresholds = unpack(rule, OWN)
  local start = period_at(length, anchor, context.now_seconds)
  if start ~= period_start then
    return nil
  end
  if raw and unpacked('>I5', raw) ~= start then
    raw = use('kept').find(context, index, raw, start, false)
  end
  local used, _, external_at_us, reserved, stale_us, stale_used, fired = read(raw, start)
  if external_at_us >= requested_at_us then
    return nil
  end
  if used + amount + reserved > MAX_COUNTER then
    refuse('counter_full', rule[2])
  end
  local crossed
  if thresholds then
    fired, crossed = cross(thresholds, fired, used + amount)
  end
  return packed(COUNTER, start, used, amount, requested_at_us, reserved, stale_us, stale_used, #fired, fired), crossed
end

-- Frees `held` and debits `amount` in the period that contains `at` (seconds).
local function finish(rule, held, amount, raw, _, at)
  local length, anchor, _, _, thresholds = unpack(rule, OWN)
  local start = period_at(length, anchor, at)
  if not start then
    return nil
  end
  local used, external, external_at_us, reserved, stale_us, stale_used, fired = read(raw, start)
  if used + amount > MAX_COUNTER then
    refuse('counter_full', rule[2])
  end
  used, reserved = math.max(0, used + amount), math.max(0, reserved - held)
  local crossed
  if thresholds then
    fired, crossed = cross(thresholds, fired, used + external)
  end
  return packed(COUNTER, start, used, external, external_at_us, reserved, stale_us, stale_used, #fired, fired), crossed
end

-- Whether the counter still holds what was debited at `at` (seconds).
local function keeps(rule, raw, at)
  return unpacked('>I5', raw) == period_at(rule[OWN], rule[OWN + 1], at)
end

-- What a reservation of `amount` holds.
local function held(_, amount)
  return amount
end

-- What a counter holds for reservations, and of which period.
local function holds(raw)
  local start, _, _, _, reserved = unpacked(COUNTER, raw)
  return reserved, start
end

-- The counter, holding `reserved`; the first of that period where `raw` is false.
local function holding(raw, reserved, period_start)
  local used, external, external_at_us, _, stale_us, stale_used, fired = read(raw, period_start)
  return packed(COUNTER, period_start, used, external, external_at_us, reserved, stale_us, stale_used, #fired, fired)
end

return {
  check = check, finish = finish, read_external = read_external, keeps = keeps, held = held, holds = holds,
  holding = holding,
}
