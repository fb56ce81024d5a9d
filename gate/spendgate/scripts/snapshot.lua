-- One customer, read in one moment: a record without an event. Writes nothing.
-- KEYS: counters of the customer.  ARGV: tag, customer id.
return answer(function()
  local meta = read_meta(ARGV[1])
  local customer = read_customer(ARGV[1], ARGV[2], clock_us())
  read_counters(customer)
  local result = { 'allow', 'snapshot', '', '', customer.standing[1], {}, 1 }
  return { 'snapshot', '', record_of(customer, meta, 'snapshot', 'decide', nil, result) }
end)
