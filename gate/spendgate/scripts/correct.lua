-- Puts right what was committed under a decision, in the periods of then: the difference is debited or taken back. Never
-- denied, like what is recorded.
-- KEYS: counters of the customer.  ARGV: tag, customer id, the event, digest of the policy it was debited under, facts of the
-- record with what is put right, epoch and sequence of the customer's partition that the caller has read the store up to.
-- Answers {corrected | repeated, stream id, record}, or {'behind', stream id}: the store's newest
-- correction of the customer may lack in what the caller read, so what counted before it may be another quantity.
local about, reservations = use('customer'), use('reservations')
local CORRECTION = 7 -- of the facts

-- The partition was not degraded in between, so what was moved into a new epoch is stored before anything in it.
local function is_stored(id, epoch, sequence)
  local at_epoch, at_sequence = id:match('^(%d+)-(%d+)$')
  at_epoch, at_sequence = tonumber(at_epoch), tonumber(at_sequence)
  return at_epoch < epoch or at_epoch == epoch and at_sequence <= sequence
end

return function()
  local tag, customer_id, event_raw, digest, facts_raw = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local epoch, sequence = tonumber(ARGV[6]), tonumber(ARGV[7])
  local meta, now_seconds, now_us = about.meta(tag), about.clock()
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  local facts, last_key = cmsgpack.unpack(facts_raw), tag .. 'corrected:' .. customer_id
  local correction_id = facts[CORRECTION][1]
  local function done(status, id)
    local entry = redis.call('XRANGE', tag .. 'outbox', id, id)[1]
    if not entry then
      return { 'behind', id } -- stored and trimmed meanwhile
    end
    return { status, id, entry[2][2] }
  end

  local last_raw = redis.call('GET', last_key)
  local last = last_raw and cmsgpack.unpack(last_raw)
  if last and last[1] == correction_id then
    return done('repeated', last[2])
  end
  if last and not is_stored(last[2], epoch, sequence) then
    return { 'behind', last[2] }
  end

  if meta[3] and meta[2] - meta[3] >= 0 then
    refuse('backlog_full')
  end
  local event, view = cmsgpack.unpack(event_raw), reservations.under(customer, digest)
  local meter, delta = unpack(facts[5][1])
  local ending = {
    held = false, committed = { [meter] = delta }, metadata = event[2], effective_at_us = facts[2], corrects = true,
  }
  reservations.probe(view)
  local id = use('finish')(view, ending, 'finish', 'correct', 'corrected', event_raw, facts_raw)
  redis.call('SET', last_key, cmsgpack.pack({ correction_id, id }))
  reservations.refresh(customer)
  return done('corrected', id)
end
