-- Manual toggles. They are void from `until_us` on, whoever is there to remove them.
local overrides = {}

function overrides.units_of(standing, override_id)
  for _, pair in ipairs(standing.override_units) do
    if pair[1] == override_id then
      return pair[2]
    end
  end
  return 0
end

local function covers(override, limit_id)
  for _, bypassed in ipairs(override.bypass or { '*' }) do
    if bypassed == '*' or bypassed == limit_id then
      return true
    end
  end
  return false
end

-- Units per override that still exists, in the overrides' order, zeros left out; `units` more of `used_id`.
function overrides.units(customer, used_id, units)
  local counted = {}
  for _, override in ipairs(customer.overrides) do
    local total = overrides.units_of(customer.standing, override.id) + (override.id == used_id and units or 0)
    if total > 0 then
      counted[#counted + 1] = { override.id, total }
    end
  end
  return counted
end

-- Whether they stop the customer, when the first of them ends, and which limits they let pass.
function overrides.effects(customer, override_units)
  local stopped, change_us, passing = false, math.huge, {}
  for _, override in ipairs(customer.overrides) do
    if override.until_us > customer.now_us then
      change_us = math.min(change_us, override.until_us)
      if override.kind == 'stop' then
        stopped = true
      elseif overrides.units_of({ override_units = override_units }, override.id) < (override.max_units or 0) then
        passing[#passing + 1] = override
      end
    end
  end
  return stopped, change_us, function(limit_id)
    for _, override in ipairs(passing) do
      if covers(override, limit_id) then
        return true
      end
    end
    return false
  end
end

-- The one that stops the customer.
function overrides.stop(customer)
  for _, override in ipairs(customer.overrides) do
    if override.kind == 'stop' and override.until_us > customer.now_us then
      return override
    end
  end
  return nil
end

-- Limits that can't be debited: no matter of allowance, so nothing lets them pass.
local UNCOUNTABLE = { model_without_weight = true, policy_stale = true, too_many_values = true }

-- The first that covers all denying limits and has room for the whole event.
function overrides.passing(customer, denying, units)
  for _, override in ipairs(customer.overrides) do
    local passes = override.kind == 'let_pass'
      and override.until_us > customer.now_us
      and overrides.units_of(customer.standing, override.id) + units <= (override.max_units or 0)
    for _, denial in ipairs(denying) do
      if UNCOUNTABLE[denial[3]] then
        return nil
      end
      passes = passes and covers(override, denial[1])
    end
    if passes then
      return override
    end
  end
  return nil
end

return overrides
