-- Twin of rate.py. The rule's own part: units, per microseconds, burst. A counter is the debt, in unit * microseconds, and
-- when it was that.
local OWN = 10
local COUNTER = '>I7I7'
local floor, max, min = math.floor, math.max, math.min

local function ceil_div(dividend, divisor)
  return -floor(-dividend / divisor)
end

local function read(raw, units, ceiling, now_us)
  if not raw then
    return 0, now_us
  end
  local updated_us, debt = struct.unpack(COUNTER, raw)
  local elapsed_us = max(0, now_us - updated_us)
  return max(0, min(debt, ceiling) - units * min(elapsed_us, ceil_div(ceiling, units))), max(now_us, updated_us)
end

local function check(rule, amount, raw, context)
  local units, per_us, burst = unpack(rule, OWN)
  local ceiling = burst * per_us
  local debt, updated_us = read(raw, units, ceiling, context.now_us)
  local debt_after = amount >= burst and ceiling or min(ceiling, debt + amount * per_us)
  local after = struct.pack(COUNTER, updated_us, debt_after)
  if amount > burst then
    return 'stop', 'above_burst', 0, after
  end
  local excess = debt + amount * per_us - ceiling
  if excess > 0 then
    return rule[4] and 'stop' or 'throttle', 'rate_exceeded', ceil_div(excess, units), after
  end
  return nil, nil, nil, after
end

-- What was held counted when it was; the difference to what is debited counts now.
local function finish(rule, held, amount, raw, context)
  local units, per_us, burst = unpack(rule, OWN)
  local more, ceiling = amount - held, burst * per_us
  if more == 0 then
    return nil
  end
  local debt, updated_us = read(raw, units, ceiling, context.now_us)
  if more >= burst or -more >= burst then
    debt = more > 0 and ceiling or 0
  else
    debt = max(0, min(ceiling, debt + more * per_us))
  end
  return struct.pack(COUNTER, updated_us, debt)
end

return { check = check, finish = finish }
