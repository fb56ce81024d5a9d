-- Credits that expire: burnt before those granted for good, in the order in which the policy state lists them. Twin of the
-- grants in credits.py. A wallet's counter is the table of credits.lua.
local max, min = math.max, math.min

local function burnt_of(counter, grant_id)
  for _, pair in ipairs(counter.burnt) do
    if pair[1] == grant_id then
      return pair[2]
    end
  end
  return 0
end

local function is_live(grant, at_us)
  local expires_at_us = grant.expires_at_us or 0
  return expires_at_us == 0 or expires_at_us > at_us
end

-- What is left of those that live now.
local function left_of(counter, customer)
  local rest = 0
  for _, grant in ipairs(customer.grants) do
    if is_live(grant, customer.now_us) then
      rest = rest + grant.micro_credits - burnt_of(counter, grant.id)
    end
  end
  return rest
end

-- Takes from those that live at `at_us` what the counter was just debited; what none has room for stays with the part
-- granted for good.
local function burn(counter, cost, granted_for_good, customer, at_us)
  local before = counter.used - cost + counter.external_seen - counter.covered
  local wanted = cost + max(0, counter.external - counter.external_seen) + max(0, before - granted_for_good)
  local burnt = {}
  for _, grant in ipairs(customer.grants) do
    local units = burnt_of(counter, grant.id)
    if is_live(grant, at_us) then
      local taken = max(0, min(wanted, grant.micro_credits - units))
      units, wanted, counter.covered = units + taken, wanted - taken, counter.covered + taken
    end
    if units > 0 then
      burnt[#burnt + 1] = { grant.id, units }
    end
  end
  counter.burnt, counter.external_seen = burnt, counter.external
end

-- After `used` went down: they cover no more than what was used at all, and those burnt last get theirs back first.
local function give_back(counter)
  local surplus = max(0, counter.covered - counter.used - counter.external_seen)
  local rest, burnt = surplus, {}
  for index = #counter.burnt, 1, -1 do
    local grant_id, units = unpack(counter.burnt[index])
    local back = min(units, rest)
    rest = rest - back
    if units > back then
      table.insert(burnt, 1, { grant_id, units - back })
    end
  end
  counter.burnt, counter.covered = burnt, counter.covered - surplus
end

-- When the next one expires that a limit of this customer looks at; nil when none will.
local function next_expiry(customer)
  local counts, first = false, nil
  for _, rule in ipairs(customer.limits) do
    counts = counts or rule[1] == 'credits' and rule[6]
  end
  for _, grant in ipairs(counts and customer.grants or {}) do
    local expires_at_us = grant.expires_at_us or 0
    if expires_at_us > customer.now_us then
      first = min(first or expires_at_us, expires_at_us)
    end
  end
  return first
end

return { left_of = left_of, burn = burn, give_back = give_back, next_expiry = next_expiry }
