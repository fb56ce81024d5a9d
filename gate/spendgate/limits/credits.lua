-- Twin of credits.py, in micro-credits. The rule's own part: weights (meter, model pattern, micro-credits, ...), floor, what
-- is granted where the source knows none, outage allowance.
local OWN = 10
local max, min = math.max, math.min
local packed, unpacked = struct.pack, struct.unpack
local matches = use('events').matches
local credits = {}

local COUNTER = '>I7I7I7I7I7I7I7I7'

local function read(raw)
  if not raw then
    return {
      used = 0, external = 0, external_at_us = 0, reserved = 0, stale_us = 0, stale_used = 0, external_seen = 0,
      covered = 0, burnt = {},
    }
  end
  local used, external, external_at_us, reserved, stale_us, stale_used, external_seen, covered, at =
    unpacked(COUNTER, raw)
  return {
    used = used, external = external, external_at_us = external_at_us, reserved = reserved, stale_us = stale_us,
    stale_used = stale_used, external_seen = external_seen, covered = covered,
    burnt = at <= #raw and cmsgpack.unpack(raw:sub(at)) or {},
  }
end

local function write(counter)
  local raw = packed(
    COUNTER, counter.used, counter.external, counter.external_at_us, counter.reserved, counter.stale_us,
    counter.stale_used, counter.external_seen, counter.covered
  )
  return #counter.burnt > 0 and raw .. cmsgpack.pack(counter.burnt) or raw
end

local function weight_of(weights, meter, model)
  for index = 1, #weights, 3 do
    if weights[index] == meter and matches(weights[index + 1], model) then
      return weights[index + 2]
    end
  end
  return nil
end

-- Nil where a weight is missing.
local function cost_of(rule, quantities, metadata)
  local model = type(metadata.model) == 'string' and metadata.model or ''
  local meters = type(rule[3]) == 'string' and { rule[3] } or rule[3]
  local cost = 0
  for _, meter in ipairs(meters) do
    local quantity = quantities[meter]
    if quantity then
      local weight = weight_of(rule[OWN], meter, model)
      if not weight then
        return nil
      end
      cost = cost + quantity * weight
      if cost > MAX_COUNTER then
        refuse('cost_too_large', rule[2])
      end
    end
  end
  return cost
end

local function granted_for_good(rule, customer)
  return customer.granted or not customer.grants and rule[OWN + 2] or 0
end

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

-- What is left of everything granted, reservations not counted.
local function lasting(rule, counter, customer)
  local rest = granted_for_good(rule, customer) - (counter.used + counter.external - counter.covered)
  for _, grant in ipairs(customer.grants or {}) do
    if is_live(grant, customer.now_us) then
      rest = rest + grant.micro_credits - burnt_of(counter, grant.id)
    end
  end
  return rest
end

-- Takes from the grants that live at `at_us`, in their order; what none has room for stays with the part for good.
local function burn(rule, counter, cost, customer, at_us)
  local before = counter.used - cost + counter.external_seen - counter.covered
  local wanted = cost
    + max(0, counter.external - counter.external_seen)
    + max(0, before - granted_for_good(rule, customer))
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

local function debit(rule, counter, cost, customer, at_us)
  if counter.used + cost > MAX_COUNTER then
    refuse('counter_full', rule[2])
  end
  counter.used = max(0, counter.used + cost)
  if customer.grants then
    burn(rule, counter, cost, customer, at_us)
  end
end

function credits.check(rule, amount, raw, customer)
  local floor, allowance = rule[OWN + 1], rule[OWN + 3]
  local counter = read(raw)
  local left = lasting(rule, counter, customer)
  local cost = amount > 0 and cost_of(rule, customer.quantities, customer.metadata)
  if amount > 0 and not cost then
    return 'stop', 'model_without_weight', 0, nil, nil, left - floor, 0, 0
  end
  if not cost or cost == 0 then
    return nil, nil, nil, nil, nil, left - floor, 0, 0
  end
  local balance = left - counter.reserved
  if counter.used + counter.external + counter.reserved + cost > MAX_COUNTER then
    refuse('counter_full', rule[2])
  end
  local denies, reason, retry_us
  if cost > balance then
    denies, reason, retry_us = rule[4] and 'stop' or 'throttle', 'credits_exceeded', 0
  end
  if customer.stale_mirror_us > 0 then
    counter.stale_used = (counter.stale_us == customer.stale_mirror_us and counter.stale_used or 0) + cost
    counter.stale_us = customer.stale_mirror_us
    if not denies and counter.stale_used > allowance then
      denies, reason, retry_us = 'throttle', 'mirror_stale', STALE_RETRY_US
    end
  end
  local spent = 0
  if customer.reserving then
    counter.reserved = counter.reserved + cost
  else
    debit(rule, counter, cost, customer, customer.now_us)
    spent = cost
  end
  return denies, reason, retry_us, write(counter), nil, left - floor, spent, 0
end

-- `held` and `amount` are of the limit's meters; what they cost follows from `ending`.
function credits.finish(rule, _, _, raw, customer, _, ending)
  local counter = read(raw)
  local held = ending.held and cost_of(rule, ending.held, ending.metadata) or 0
  counter.reserved = max(0, counter.reserved - held)
  debit(rule, counter, cost_of(rule, ending.committed, ending.metadata) or 0, customer, ending.effective_at_us)
  return write(counter)
end

-- The counter after what was used outside the gate was read anew; nil when a younger reading is there.
function credits.read_external(rule, raw, amount, requested_at_us, customer)
  local counter = read(raw)
  if counter.external_at_us >= requested_at_us then
    return nil
  end
  if counter.used + amount + counter.reserved > MAX_COUNTER then
    refuse('counter_full', rule[2])
  end
  counter.external, counter.external_at_us = amount, requested_at_us
  if customer.grants then
    burn(rule, counter, 0, customer, customer.now_us)
  end
  return write(counter)
end

-- When the next grant expires.
function credits.next_expiry(customer)
  local first = nil
  for _, grant in ipairs(customer.grants) do
    local expires_at_us = grant.expires_at_us or 0
    if expires_at_us > customer.now_us then
      first = min(first or expires_at_us, expires_at_us)
    end
  end
  return first
end

function credits.held(rule, _, reservation)
  return cost_of(rule, reservation.quantities, reservation.metadata) or 0
end

function credits.holds(raw)
  return read(raw).reserved, 0
end

function credits.holding(raw, reserved)
  local counter = read(raw)
  counter.reserved = reserved
  return write(counter)
end

return credits
