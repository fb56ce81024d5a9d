-- Twin of rate.py. A counter is {updated at, debt in unit * microseconds}.
kinds.rate = {
  check = function(limit, event, stored, context)
    local amount = amount_of(event, limit.meters)
    if amount == 0 then
      return {}
    end
    local counter = stored or { 0, 0 }
    local ceiling = limit.burst * limit.per_us
    local elapsed_us = max(0, context.now_us - counter[1])
    local debt = max(0, counter[2] - limit.units * min(elapsed_us, ceil_div(ceiling, limit.units)))
    local debt_after = amount >= limit.burst and ceiling or min(ceiling, debt + amount * limit.per_us)
    local check = { counter = { max(context.now_us, counter[1]), debt_after } }
    if amount > limit.burst then
      check.denies, check.reason, check.retry_after_us = 'stop', 'above_burst', 0
      return check
    end
    local excess = debt + amount * limit.per_us - ceiling
    if excess > 0 then
      check.denies = limit.when_exceeded or 'throttle'
      check.reason = 'rate_exceeded'
      check.retry_after_us = ceil_div(excess, limit.units)
    end
    return check
  end,

  exhausted_until = function()
    return nil
  end,
}
