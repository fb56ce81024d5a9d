-- Decides one event, as decide.py defines it, and keeps it: memory, counters and outbox in one atomic step.
-- KEYS: counters of the customer (routes the call).  ARGV: tag, customer id, event, mode, dry run, identity,
-- fingerprint, lifetime of a reservation in microseconds (0: the plan's).
-- Answers {status, stream id, outcome, policy digest, record, decided at (of a duplicate)} or {'error', code, subject}.
local about, events, memory = use('customer'), use('events'), use('memory')
local ACTIVE, SUSPENDED, CANCELLED = 0, 1, 2
local OUTCOMES = { allow = 1, throttle = 2, stop = 3 }

-- The customer's part of the judgement: outcome, reason, override id.
local function judge_customer(customer)
  if customer.status ~= ACTIVE then
    if customer.status == SUSPENDED then
      return 'stop', 'customer_suspended', ''
    elseif customer.status == CANCELLED then
      return 'stop', 'customer_cancelled', ''
    elseif customer.deny_unknown then
      return 'stop', 'unknown_customer', ''
    end
  end
  local stop = customer.overrides and use('overrides').stop(customer)
  if stop then
    return 'stop', 'override_stop', stop.id
  end
  local model = customer.metadata.model
  if customer.models and type(model) == 'string' then
    for _, pattern in ipairs(customer.models) do
      if events.matches(pattern, model) then
        return 'allow', 'allowed', ''
      end
    end
    return 'stop', 'model_not_allowed', ''
  end
  return 'allow', 'allowed', ''
end

-- What is to be kept of a reservation that is allowed.
local function reservation_of(customer, event, identity, fingerprint, asked_us)
  local deadline_us = customer.now_us + use('reservations').lifetime(customer, asked_us)
  return {
    event_id = event[4], stream_id = '', effective_at_us = customer.now_us, deadline_us = deadline_us,
    digest = customer.digest, identity = identity, fingerprint = fingerprint, event_raw = ARGV[3],
  }
end

local function keep_debit(customer, standing, checks, record)
  about.probe_changed(customer, standing)
  local fields, id, seq = {}, about.append(customer, record)
  if #standing.denials > 0 then
    standing.denials = use('denials').flush(customer, standing)
  end
  if checks.places or customer.moves then
    local kept = use('kept')
    for index, counter in pairs(checks.after) do
      kept.keep(customer, index, counter, fields, checks.places)
    end
  else
    local at = 0
    for index, counter in pairs(checks.after) do
      fields[at + 1], fields[at + 2] = customer.fields[index], counter
      at = at + 2
    end
  end
  about.write(customer, standing, fields)
  return id, seq
end

local function decide()
  local tag, customer_id, event_raw, mode, dry_run = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
  local identity, fingerprint, asked_us = ARGV[6], ARGV[7], tonumber(ARGV[8])
  local now_seconds, now_us = about.clock()
  local meta = about.meta(tag)
  local customer = about.read(tag, customer_id, meta, now_seconds, now_us)
  local event = cmsgpack.unpack(event_raw)
  local units = events.validate(event[1], customer.meters, 1)
  customer.quantities, customer.metadata = event[1], event[2]

  local remembered, bucket = nil, nil
  if not dry_run then
    remembered, bucket = memory.recall(customer, 'seen', identity)
  end
  if remembered then
    return use('duplicates').answer_again(customer, remembered, identity, fingerprint, mode, event, event_raw)
  end
  if not dry_run and meta[3] and meta[2] - meta[3] >= 0 then
    refuse('backlog_full')
  end
  local reservation = nil
  if mode == 'reserve' then
    reservation = reservation_of(customer, event, identity, fingerprint, asked_us)
    local open = not dry_run and use('reservations').open(customer, event[4])
    if open then -- for longer than events are remembered
      local epoch, seq = open.stream_id:match('^(%d+)-(%d+)$')
      local known = struct.pack(memory.EVENT, open.fingerprint, tonumber(epoch), tonumber(seq), open.effective_at_us)
      return use('duplicates').answer_again(customer, known, identity, fingerprint, mode, event, event_raw)
    end
  end
  local ends_us = customer.standing.reservations_end_us
  if ends_us > 0 and ends_us <= now_us and not dry_run then
    use('reservations').end_overdue(customer)
  end
  local mirrored_at_us = tonumber(meta[4]) or 0
  if customer.max_staleness_us > 0 and mirrored_at_us > 0 and now_us - mirrored_at_us > customer.max_staleness_us then
    customer.stale_mirror_us = mirrored_at_us
  end
  customer.reserving = reservation ~= nil

  local checks = use('limits')(customer, event[1])
  local outcome, reason, override_id = judge_customer(customer)
  local limit_id = ''
  if outcome == 'allow' and checks.denying then
    outcome, reason, limit_id, override_id = use('denials').judge(customer, checks.denying, units)
  end
  if mode == 'record' then
    outcome, reason, limit_id, override_id = 'allow', 'recorded', '', ''
  end
  local allowed = outcome == 'allow'
  local throttled_until_us = customer.standing.throttled_until_us
  if checks.denying and not allowed then
    for _, denial in ipairs(checks.denying) do
      if denial[3] == 'rate_exceeded' then
        throttled_until_us = now_us + 10000000
      end
    end
  end
  local override_units = NONE
  if customer.overrides then
    override_units = use('overrides').units(customer, reason == 'allowed_by_override' and override_id or nil, units)
  end
  local standing = use('standing').after(customer, checks, allowed, throttled_until_us, override_units)
  local facts, reservation_ends_us = nil, nil
  if reservation and allowed then
    reservation_ends_us = use('reservations').end_of(customer, reservation.deadline_us)
    ends_us = standing.reservations_end_us
    standing.reservations_end_us = ends_us > 0 and math.min(ends_us, reservation_ends_us) or reservation_ends_us
    facts = cmsgpack.pack(use('reservations').facts('open', reservation))
  end
  local result = about.result(outcome, reason, limit_id, override_id, standing.state, allowed and checks.crossed or nil)
  local record = about.record(customer, 'decision', mode, event_raw, result, facts)
  if dry_run then
    return { 'dry_run', '', OUTCOMES[outcome], customer.digest, record }
  end

  local status, id, seq = 'decided', nil, nil
  if allowed then
    id, seq = keep_debit(customer, standing, checks, record)
    local known = struct.pack(memory.EVENT, fingerprint, tonumber(meta[1]), tonumber(seq), now_us)
    memory.keep(customer, 'seen', identity, known, bucket)
  else
    status, id = use('denials').keep(customer, standing, outcome, reason, limit_id, record)
  end
  if reservation_ends_us then
    reservation.stream_id = id
    use('reservations').keep(customer, reservation, reservation_ends_us)
  end
  if not customer.state_raw then
    redis.call('XADD', tag .. 'hints', 'MAXLEN', '~', 1000, '*', 'c', customer_id)
  end
  return { status, id, OUTCOMES[outcome], customer.digest, record }
end

return decide
