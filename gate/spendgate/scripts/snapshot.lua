-- One customer, read in one moment: a record without an event. Writes nothing.
-- KEYS: counters of the customer.  ARGV: tag, customer id.
return function()
  local about, tag, customer_id = use('customer'), ARGV[1], ARGV[2]
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  use('limits')(customer, nil)
  local result = about.result('allow', 'snapshot', '', '', customer.standing.state)
  return { 'snapshot', '', 1, customer.digest, about.record(customer, 'snapshot', 'decide', nil, result) }
end
