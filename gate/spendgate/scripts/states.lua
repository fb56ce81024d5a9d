-- Which of two policy states of a customer is in force: that of the stronger source, then the higher version, then the later one.
-- The store keeps them in the same order, so both end with the same one, whichever writer comes first.
local states = {}
local STRENGTH = { ['customers.yaml'] = 1, catalog = 2, usagebox = 3, admin = 4 }

-- Whether `stored` stays when `given` comes, both as they are kept.
function states.stays(stored, given)
  local old, new = cmsgpack.unpack(stored:sub(42)), cmsgpack.unpack(given:sub(42))
  local before, after = STRENGTH[old.source] or 0, STRENGTH[new.source] or 0
  if before ~= after then
    return before > after
  elseif old.version ~= new.version then
    return old.version > new.version
  end
  return old.updated_at_us > new.updated_at_us
end

return states
