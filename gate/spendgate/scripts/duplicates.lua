-- The answer to an event that was allowed before: the same again, with the customer as it is now.
local about, events, memory = use('customer'), use('events'), use('memory')

-- What the reservation of this event has come to; nil when that is forgotten.
local function facts_of(customer, event, identity)
  local reservations = use('reservations')
  local open = reservations.open(customer, event[4])
  if open then
    return reservations.facts('open', open)
  end
  local ended = reservations.ended(customer, identity)
  return ended and ended[3]
end

local function answer_again(customer, remembered, identity, fingerprint, mode, event, event_raw)
  local known, epoch, seq, decided_us = struct.unpack(memory.EVENT, remembered)
  if known ~= fingerprint then
    refuse('conflict')
  end
  local facts = mode == 'reserve' and facts_of(customer, event, identity)
  for index, rule in ipairs(customer.limits) do
    if rule[8] and events.amount_of(event[1], rule[3]) > 0 and events.applies(rule[7], event[2]) then
      customer.counters[index] = use('per').read(customer, rule, event[2], customer.now_seconds)
    end
  end
  local result =
    about.result('allow', mode == 'record' and 'recorded' or 'allowed', '', '', customer.standing.state)
  local record = about.record(customer, 'decision', mode, event_raw, result, facts and cmsgpack.pack(facts))
  local id = epoch .. '-' .. string.format('%.0f', seq)
  return { 'duplicate', id, 1, customer.digest, record, string.format('%.0f', decided_us) }
end

return { answer_again = answer_again }
