-- Every limit against one event, or against none (`quantities` nil). A kind's `check` gives up to eight values: how it
-- denies (`stop`, `throttle` or nil), why, when to try again, the counter after a debit, the thresholds that it crosses,
-- and for a limit that may stop its customer what is left above its floor, what the debit takes of that, and when it resets
-- (0: never by itself).
local events = use('events')
local amount_of = events.amount_of

return function(customer, quantities)
  local checks = { after = {}, spares = {}, spents = {}, ends = {}, denying = false, crossed = false, places = false }
  for index, rule in ipairs(customer.limits) do
    local amount = quantities and amount_of(quantities, rule[3]) or 0
    if amount > 0 and rule[7] and not events.applies(rule[7], customer.metadata) then
      amount = 0
    end
    if amount > 0 or rule[6] then
      local raw = customer.counters[index]
      if rule[8] then
        checks.places = checks.places or {}
        raw, checks.places[index] = use('per').read(customer, rule, customer.metadata, customer.now_seconds)
        customer.counters[index] = raw
      end
      local denies, reason, retry_us, after, names, spare, spent, ends_us
      if raw ~= '' then
        denies, reason, retry_us, after, names, spare, spent, ends_us =
          use(rule[1]).check(rule, amount, raw, customer, not rule[8] and index)
      elseif customer.reserving or rule[1] ~= 'concurrency' then -- what reserves nothing isn't counted as open
        denies, reason, retry_us = use('per').full(customer, rule)
      end
      checks.after[index] = after
      if spare and rule[6] then
        checks.spares[index], checks.spents[index], checks.ends[index] = spare, spent, ends_us
      end
      if names then
        checks.crossed = checks.crossed or {}
        for _, name in ipairs(names) do
          checks.crossed[#checks.crossed + 1] = { rule[2], name }
        end
      end
      if denies and rule[5] then
        checks.denying = checks.denying or {}
        checks.denying[#checks.denying + 1] = { rule[2], denies, reason, retry_us }
      end
    end
  end
  return checks
end
