-- Twin of credits.py. A counter is {0, used, external, external read at, {}}, all in micro-credits.
local function weight_of(limit, meter, model)
  for _, weight in ipairs(limit.weights) do
    if weight.meter == meter and matches(weight.model, model) then
      return weight.micro_credits
    end
  end
  return nil
end

local function cost_of(limit, event)
  local model = type(event.metadata.model) == 'string' and event.metadata.model or ''
  local cost = 0
  for _, meter in ipairs(limit.meters) do
    local quantity = event.quantities[meter]
    if quantity then
      local weight = weight_of(limit, meter, model)
      if not weight then
        return nil
      end
      cost = cost + quantity * weight
      if cost > MAX_COUNTER then
        refuse('cost_too_large', limit.id)
      end
    end
  end
  return cost
end

kinds.credits = {
  check = function(limit, event, stored, context)
    local counter = stored or { 0, 0, 0, 0, {} }
    local cost = cost_of(limit, event)
    if not cost then
      return { denies = 'stop', reason = 'model_without_weight', retry_after_us = 0 }
    end
    if cost == 0 then
      return {}
    end
    local granted = context.granted_micro_credits or limit.granted_when_unknown or 0
    local check = { counter = { counter[1], checked_sum(counter[2], cost, limit), counter[3], counter[4], counter[5] } }
    if counter[2] + counter[3] + cost > granted then
      check.denies = limit.when_exceeded or 'stop'
      check.reason = 'credits_exceeded'
      check.retry_after_us = 0
    end
    return check
  end,

  exhausted_until = function(limit, stored, context)
    local counter = stored or { 0, 0, 0, 0, {} }
    local granted = context.granted_micro_credits or limit.granted_when_unknown or 0
    if granted - counter[2] - counter[3] > (limit.floor or 0) then
      return nil
    end
    return 0
  end,
}
