-- Twin of per_event.py. The rule's own part: the most, metadata field or false. It keeps no counter.
local OWN = 10

local function check(rule, amount, _, context)
  local most, field = rule[OWN], rule[OWN + 1]
  if field then
    amount = context.metadata[field]
    if amount == nil then
      return nil
    end
    if type(amount) ~= 'number' or amount ~= math.floor(amount) or amount < 0 or amount > MAX_COUNTER then
      refuse('metadata_not_a_number', field)
    end
  end
  if amount > most then
    return rule[4] and 'stop' or 'throttle', 'event_too_large', 0
  end
  return nil
end

local function finish()
  return nil
end

return { check = check, finish = finish }
