-- Every limit against one event, or against none (`quantities` nil). A kind's `check` gives up to eight values: how it
-- denies (`stop`, `throttle` or nil), why, when to try again, the counter after a debit, the thresholds that it crosses,
-- and for a limit that may stop its customer what is left above its floor, what the debit takes of that, and when it resets
-- (0: never by itself). What the standing has to know is kept: limits with nothing left, before the debit or after it.
local events = use('events')
local amount_of, applies = events.amount_of, events.applies

local function note_thresholds(checks, limit_id, names)
  local crossed = checks.crossed or {}
  for _, name in ipairs(names) do
    crossed[#crossed + 1] = { limit_id, name }
  end
  checks.crossed = crossed
end

return function(customer, quantities)
  local after = {}
  local checks = { after = after, exhausted = false, denying = false, crossed = false, places = false }
  local limits, counters, metadata = customer.limits, customer.counters, customer.metadata
  for index = 1, #limits do
    local rule = limits[index]
    local amount = quantities and amount_of(quantities, rule[3]) or 0
    if amount > 0 and rule[7] and not applies(rule[7], metadata) then
      amount = 0
    end
    if amount > 0 or rule[6] then
      local raw = counters[index]
      if rule[8] then
        checks.places = checks.places or {}
        raw, checks.places[index] = use('per').read(customer, rule, metadata, customer.now_seconds)
        counters[index] = raw
      end
      local denies, reason, retry_us, counter, names, spare, spent, ends_us
      if raw ~= '' then
        denies, reason, retry_us, counter, names, spare, spent, ends_us =
          use(rule[1]).check(rule, amount, raw, customer, not rule[8] and index)
      elseif customer.reserving or rule[1] ~= 'concurrency' then -- what reserves nothing isn't counted as open
        denies, reason, retry_us = use('per').full(customer, rule)
      end
      after[index] = counter
      if spare and spare <= spent and rule[6] then
        checks.exhausted = checks.exhausted or {}
        checks.exhausted[#checks.exhausted + 1] = { rule, spare, spent, ends_us }
      end
      if names then
        note_thresholds(checks, rule[2], names)
      end
      if denies and rule[5] then
        checks.denying = checks.denying or {}
        checks.denying[#checks.denying + 1] = { rule[2], denies, reason, retry_us }
      end
    end
  end
  return checks
end
