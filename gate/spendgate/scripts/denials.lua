-- Which denial counts, and how denials are kept: of one rule, those beyond the first ten in one second are only counted; the
-- second being over, they are told.
local KEPT = 10

-- The first that stops, otherwise the throttle that lasts longest, the first among equals.
local function deciding(denying)
  local longest = denying[1]
  for _, denial in ipairs(denying) do
    if denial[2] == 'stop' then
      return denial
    end
    if denial[4] > longest[4] then
      longest = denial
    end
  end
  return longest
end

-- The judgement where limits deny: outcome, reason, limit id, override id.
local function judge(customer, denying, units)
  local limit_id, denies, reason = unpack(deciding(denying))
  local passing = customer.overrides and use('overrides').passing(customer, denying, units)
  if passing then
    return 'allow', 'allowed_by_override', limit_id, passing.id
  end
  return denies, reason, limit_id, ''
end

-- Counts one; true when it is to be kept as a record of its own. The list before stays as it is.
local function count(standing, rule, outcome, second)
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
local function flush(customer, standing)
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

-- Gives the status of the answer, and the id of the record that tells of this denial.
local function keep(customer, standing, outcome, reason, limit_id, record)
  local about = use('customer')
  about.probe_changed(customer, standing)
  local entry, kept = count(standing, reason .. '|' .. limit_id, outcome, customer.now_seconds)
  if kept then
    entry[4] = about.append(customer, record)
  end
  standing.denials = flush(customer, standing)
  about.write(customer, standing, {})
  return kept and 'decided' or 'coalesced', entry[4]
end

return { judge = judge, flush = flush, keep = keep }
