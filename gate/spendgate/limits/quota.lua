-- Twin of quota.py. A counter is {period start, used, external, external read at, fired thresholds}.
local function quota_counter(limit, stored, now_us)
  local period_start, period_end = period_at(limit.window, now_us)
  local counter = stored or { 0, 0, 0, 0, {} }
  if period_start and counter[1] ~= period_start then
    counter = { period_start, 0, 0, 0, {} }
  end
  return counter, period_start, period_end
end

local function fires(counter, name)
  for _, fired in ipairs(counter[5]) do
    if fired == name then
      return false
    end
  end
  return true
end

kinds.quota = {
  check = function(limit, event, stored, context)
    local counter, period_start, period_end = quota_counter(limit, stored, context.now_us)
    local amount = amount_of(event, limit.meters)
    if amount == 0 then
      return {}
    end
    if not period_start then
      return { denies = 'throttle', reason = 'policy_stale', retry_after_us = 60000000 }
    end
    local effective = counter[2] + counter[3]
    local after = { counter[1], checked_sum(counter[2], amount, limit), counter[3], counter[4], { unpack(counter[5]) } }
    checked_sum(effective, amount, limit)
    local crossed = {}
    for _, threshold in ipairs(limit.thresholds or {}) do
      if effective + amount >= threshold.at and fires(counter, threshold.name) then
        crossed[#crossed + 1] = threshold.name
        after[5][#after[5] + 1] = threshold.name
      end
    end
    local check = { counter = after, crossed = crossed }
    if limit.hard_cap and effective + amount > limit.hard_cap then
      check.denies = limit.when_exceeded or 'stop'
      check.reason = 'quota_exceeded'
      check.retry_after_us = period_end * 1000000 - context.now_us
    end
    return check
  end,

  exhausted_until = function(limit, stored, context)
    if not limit.hard_cap then
      return nil
    end
    local counter, period_start, period_end = quota_counter(limit, stored, context.now_us)
    if not period_start or limit.hard_cap - counter[2] - counter[3] > (limit.floor or 0) then
      return nil
    end
    return period_end * 1000000
  end,
}
