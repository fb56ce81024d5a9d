-- Twin of credits.py, in micro-credits. The rule's own part: weights (meter, model pattern, micro-credits, ...), floor, what
-- is granted where the source knows none, outage allowance.
local OWN = 10
local max = math.max
local packed, unpacked = struct.pack, struct.unpack
local matches = use('events').matches

local COUNTER = '>I7I7I7I7I7I7I7I7'

local function read(raw)
  if not raw then
    return {
      used = 0, external = 0, external_at_us = 0, reserved = 0, stale_us = 0, stale_used = 0, external_seen = 0,
      covered = 0, burnt = NONE,
    }
  end
  local used, external, external_at_us, reserved, stale_us, stale_used, external_seen, covered, at =
    unpacked(COUNTER, raw)
  return {
    used = used, external = external, external_at_us = external_at_us, reserved = reserved, stale_us = stale_us,
    stale_used = stale_used, external_seen = external_seen, covered = covered,
    burnt = at <= #raw and cmsgpack.unpack(raw:sub(at)) or NONE,
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
  local meters, model = rule[3], type(metadata.model) == 'string' and metadata.model or ''
  local only, cost = type(meters) == 'string' and meters, 0
  for index = 1, only and 1 or #meters do
    local meter = only or meters[index]
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

local function debit(rule, counter, cost, customer, at_us)
  if counter.used + cost > MAX_COUNTER then
    refuse('counter_full', rule[2])
  end
  counter.used = max(0, counter.used + cost)
  if cost < 0 then
    use('grants').give_back(counter)
  elseif customer.grants then
    use('grants').burn(counter, cost, granted_for_good(rule, customer), customer, at_us)
  end
end

local function check(rule, amount, raw, customer)
  local floor, allowance = rule[OWN + 1], rule[OWN + 3]
  local counter = read(raw)
  local left = granted_for_good(rule, customer) - (counter.used + counter.external - counter.covered)
  if customer.grants then
    left = left + use('grants').left_of(counter, customer)
  end
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
local function finish(rule, _, _, raw, customer, _, ending)
  local counter = read(raw)
  local held = ending.held and cost_of(rule, ending.held, ending.metadata) or 0
  counter.reserved = max(0, counter.reserved - held)
  debit(rule, counter, cost_of(rule, ending.committed, ending.metadata) or 0, customer, ending.effective_at_us)
  return write(counter)
end

-- The counter after what was used outside the gate was read anew; nil when a younger reading is there.
local function read_external(rule, raw, amount, requested_at_us, customer)
  local counter = read(raw)
  if counter.external_at_us >= requested_at_us then
    return nil
  end
  if counter.used + amount + counter.reserved > MAX_COUNTER then
    refuse('counter_full', rule[2])
  end
  counter.external, counter.external_at_us = amount, requested_at_us
  if customer.grants then
    use('grants').burn(counter, 0, granted_for_good(rule, customer), customer, customer.now_us)
  end
  return write(counter)
end

-- A wallet has no period.
local function keeps()
  return true
end

local function held(rule, _, reservation)
  return cost_of(rule, reservation.quantities, reservation.metadata) or 0
end

local function holds(raw)
  return read(raw).reserved, 0
end

local function holding(raw, reserved)
  local counter = read(raw)
  counter.reserved = reserved
  return write(counter)
end

return {
  check = check, finish = finish, read_external = read_external, keeps = keeps, held = held, holds = holds,
  holding = holding,
}
