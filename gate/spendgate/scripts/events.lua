-- What scripts ask of an event: {quantities, metadata, customer id, event id, ...}, as event.py encodes it.
local MAX_QUANTITY = 1e12

-- Checks quantities, from `least` on, and gives their sum. `meters` are the policy's, each between line feeds.
local function validate(quantities, meters, least)
  local units, unknown = 0, nil
  for meter, quantity in pairs(quantities) do
    if type(quantity) ~= 'number' or quantity ~= math.floor(quantity) or quantity < least or quantity > MAX_QUANTITY then
      refuse('invalid_quantity', meter)
    end
    if not meters:find('\n' .. meter .. '\n', 1, true) and (not unknown or meter < unknown) then
      unknown = meter
    end
    units = units + quantity
  end
  if unknown then
    refuse('unknown_meter', unknown)
  end
  return units
end

-- Units in a limit's meters: one name, or a list of them.
local function amount_of(quantities, meters)
  if type(meters) == 'string' then
    return quantities[meters] or 0
  end
  local amount = 0
  for _, meter in ipairs(meters) do
    amount = amount + (quantities[meter] or 0)
  end
  return amount
end

local function matches(pattern, text)
  if pattern:sub(-1) == '*' then
    return text:sub(1, #pattern - 1) == pattern:sub(1, -2)
  end
  return text == pattern
end

-- A metadata value as patterns and counters of `per` see it; nil stands for an absent one.
local function text_of(value)
  if type(value) == 'number' then
    return string.format('%.17g', value)
  end
  return value ~= nil and tostring(value) or nil
end

-- Whether all fields of a limit's `match` fit; false is a limit without.
local function applies(match, metadata)
  for field, pattern in pairs(match or {}) do
    local text = text_of(metadata[field])
    if not text or not matches(pattern, text) then
      return false
    end
  end
  return true
end

return { validate = validate, amount_of = amount_of, matches = matches, text_of = text_of, applies = applies }
