-- The standing: what flags say of a customer, and when that changes by itself. Twin of `_next_standing` in decide.py.
local min = math.min

local SUSPENDED, CANCELLED = 1, 2 -- of the policy state
local NEVER = math.huge

-- After a debit (`debited`) or without one. `throttled_until_us` and `override_units` are those after it.
local function after_of(customer, checks, debited, throttled_until_us, override_units)
  local now_us, before = customer.now_us, customer.standing
  local stopped, throttled, change_us = false, throttled_until_us > now_us, NEVER
  local covered = nil
  if customer.overrides then
    stopped, change_us, covered = use('overrides').effects(customer, override_units)
  end
  if throttled then
    change_us = min(change_us, throttled_until_us)
  end
  for _, exhausted in ipairs(checks.exhausted or NONE) do
    local rule, spare, spent, ends_us = unpack(exhausted)
    if spare <= 0 or debited and spare <= spent then
      if ends_us > 0 then
        change_us = min(change_us, ends_us)
      end
      if not covered or not covered(rule[2]) then
        stopped = stopped or rule[4]
        throttled = throttled or not rule[4]
      end
    end
  end
  if customer.grants then
    change_us = min(change_us, use('grants').next_expiry(customer) or NEVER)
  end
  local state = stopped and 2 or throttled and 1 or 0
  if customer.status == SUSPENDED or customer.status == CANCELLED then
    state, change_us = 3, NEVER
  end
  return {
    state = state, throttled_until_us = throttled_until_us, next_change_us = change_us < NEVER and change_us or 0,
    version = before.version + (state ~= before.state and 1 or 0), reservations_end_us = before.reservations_end_us,
    override_units = override_units, denials = before.denials,
  }
end

-- Recomputes the standing when nothing was asked. `changed`: flags must be told even if the state is the same;
-- `sweeping`: the customer's place in the calendar is used up; `reservations_end_us` nil: reservations did not change.
local function refresh(customer, changed, sweeping, reservations_end_us)
  local before = customer.standing
  local units = customer.overrides and use('overrides').units(customer) or NONE
  local after = after_of(customer, use('limits')(customer, nil), false, before.throttled_until_us, units)
  after.reservations_end_us = reservations_end_us or before.reservations_end_us
  if changed and after.version == before.version then
    after.version = after.version + 1
  end
  use('customer').probe(customer)
  if #after.denials > 0 then
    after.denials = use('denials').flush(customer, after)
  end
  if after.state ~= before.state then
    local about = use('customer')
    local result = about.result('allow', 'standing', '', '', after.state)
    about.append(customer, about.record(customer, 'standing', 'decide', nil, result))
  end
  use('customer').write(customer, after, {}, sweeping)
end

return { after = after_of, refresh = refresh }
