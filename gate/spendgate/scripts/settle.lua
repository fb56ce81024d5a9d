-- Debits what a process let pass by itself while Redis was away, in the periods of then and whatever the limits say now.
-- KEYS: counters of the customer.  ARGV: tag, customer id, event, identity, fingerprint, effective at (microseconds), digest
-- of the policy it was let pass under, journal, its sequence there.
-- Answers {debited | known | conflict | settled, stream id, state of the customer, whether the limits had room for it}.
-- `known`: it was allowed here, too, with its answer lost, or again since; `settled`: by a call whose answer was lost. A
-- journal is settled in its order, so one number for each partition says how far it came.
local about, memory, reservations = use('customer'), use('memory'), use('reservations')
local STATES = { [0] = 'ok', 'throttled', 'stopped', 'suspended' }

local function has_room(customer, event)
  customer.quantities, customer.metadata = event[1], event[2]
  for _, denial in ipairs(use('limits')(customer, event[1]).denying or {}) do
    if denial[3] == 'quota_exceeded' or denial[3] == 'credits_exceeded' then
      return false
    end
  end
  return true
end

return function()
  local tag, customer_id, event_raw, identity, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local effective_at_us, digest, journal, sequence = tonumber(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9])
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  local function done(status, id, room)
    return { status, id, STATES[customer.standing.state], room and 1 or 0 }
  end

  if (tonumber(redis.call('HGET', tag .. 'settled', journal)) or 0) >= sequence then
    return done('settled', '')
  end
  local remembered = memory.recall(customer, 'seen', identity)
  if remembered then
    local known, epoch, seq = struct.unpack(memory.EVENT, remembered)
    redis.call('HSET', tag .. 'settled', journal, sequence)
    return done(known == fingerprint and 'known' or 'conflict', epoch .. '-' .. string.format('%.0f', seq))
  end

  if meta[3] and meta[2] - meta[3] >= 0 then
    refuse('backlog_full')
  end
  local event = cmsgpack.unpack(event_raw)
  local countable, room = pcall(has_room, customer, event)
  room = countable and room
  local view = reservations.under(customer, digest)
  local granted = {
    event_id = event[4], stream_id = '', effective_at_us = effective_at_us, deadline_us = 0, quantities = event[1],
  }
  local facts = reservations.facts('settled', granted, event[1], event[1])
  local ending = { held = false, committed = event[1], metadata = event[2], effective_at_us = effective_at_us }
  reservations.probe(view)
  local id = use('finish')(view, ending, 'finish', 'settle', 'settled', event_raw, cmsgpack.pack(facts))
  memory.keep(
    customer, 'seen', identity,
    struct.pack(memory.EVENT, fingerprint, tonumber(meta[1]), tonumber(id:match('-(%d+)$')), effective_at_us)
  )
  redis.call('HSET', tag .. 'settled', journal, sequence)
  reservations.refresh(customer)
  return done('debited', id, room)
end
