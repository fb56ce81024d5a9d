-- Recomputes one customer's standing now.  KEYS: counters of the customer.  ARGV: tag, customer id, tell flags.
return answer(function()
  local meta = read_meta(ARGV[1])
  local customer = read_customer(ARGV[1], ARGV[2], clock_us())
  read_counters(customer)
  refresh_customer(customer, meta, ARGV[3] == '1')
  return 1
end)
