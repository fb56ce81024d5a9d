-- Denials of one rule beyond the first ten in one second are only counted; the second being over, they are told.
local denials = {}
local KEPT = 10

-- Counts one; true when it is to be kept as a record of its own. The list before stays as it is.
function denials.count(standing, rule, outcome, second)
  local list, found = {}, nil
  for index, entry in ipairs(standing.denials) do
    list[index] = entry
    if entry[1] == rule and entry[2] == second then
      found = { rule, second, entry[3] + 1, entry[4], outcome }
      list[index] = found
    end
  end
  if not found then
    found = { rule, second, 1, '', outcome }
    list[#list + 1] = found
  end
  standing.denials = list
  return found, found[3] <= KEPT
end

-- Tells those of seconds that are over; gives the others.
function denials.flush(customer, standing)
  local about, kept = use('customer'), {}
  for _, entry in ipairs(standing.denials) do
    if entry[2] == customer.now_seconds then
      kept[#kept + 1] = entry
    elseif entry[3] > KEPT then
      local reason, limit_id = entry[1]:match('^([^|]*)|(.*)$')
      local result = about.result(entry[5], reason, limit_id, '', standing.state, nil, entry[3] - KEPT)
      about.append(customer, about.record(customer, 'denials', 'decide', nil, result))
    end
  end
  return kept
end

return denials
