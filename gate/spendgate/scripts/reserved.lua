-- The customer's open reservations, the first to end first.  KEYS: counters of the customer.  ARGV: tag, customer id, how
-- many at most.  Answers {now, how many are open, head and event, ends at, ...}. Writes nothing.
return function()
  local customer = { tag = ARGV[1], id = ARGV[2] }
  local _, now_us = use('customer').clock()
  local found, count = use('reservations').list(customer, tonumber(ARGV[3]))
  return { string.format('%.0f', now_us), count, unpack(found) }
end
