-- A quota keeps its open period and, in a field of its own (`<field>`), the one before: for debits that come late, and for
-- clocks that are put back. This is the path of those, and of the first debit in a new period.
local kept = {}
local BEFORE = '<'

local function start_of(raw)
  return (struct.unpack('>I5', raw))
end

-- The counter of the period that begins at `start`, given the open one: false when nothing is counted there yet. For what
-- is `late`, '' when that period is kept no longer. Notes where the counter is to be written.
function kept.find(customer, index, raw, start, late)
  customer.moves = customer.moves or {}
  local opened = start_of(raw)
  if opened < start then
    customer.moves[index] = { shifts = raw }
    return raw -- of another period: it counts as nothing
  end
  local before = redis.call('HGET', customer.counters_key, BEFORE .. customer.fields[index])
  local began = before and start_of(before)
  if late and began and began > start then
    return ''
  end
  customer.moves[index] = { older = true }
  return began == start and before
end

-- Adds what is to be written for a counter to `fields`.
function kept.write(customer, index, counter, fields)
  local name, move = customer.fields[index], customer.moves[index]
  if move.shifts then
    fields[#fields + 1], fields[#fields + 2] = BEFORE .. name, move.shifts
  end
  fields[#fields + 1], fields[#fields + 2] = move.older and BEFORE .. name or name, counter
end

-- Adds a counter of any limit to `fields`, or writes it into the hash of its limit.
function kept.keep(customer, index, counter, fields, places)
  local rule = customer.limits[index]
  if rule[8] then
    use('per').keep(customer, rule, places[index], counter)
  elseif customer.moves and customer.moves[index] then
    kept.write(customer, index, counter, fields)
  else
    fields[#fields + 1], fields[#fields + 2] = customer.fields[index], counter
  end
end

return kept
