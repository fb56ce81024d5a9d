-- Recomputes one customer's standing now.  KEYS: counters of the customer.  ARGV: tag, customer id, tell flags.
return function()
  local about = use('customer')
  local meta, now_seconds, now_us = about.meta(ARGV[1]), about.clock()
  use('standing').refresh(about.read(ARGV[1], ARGV[2], meta, now_seconds, now_us), ARGV[3] == '1', false)
  return 1
end
