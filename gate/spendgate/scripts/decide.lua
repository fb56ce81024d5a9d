-- Decides one event, as decide.py defines it, and keeps it: memory, counters and outbox in one atomic step.
-- KEYS: counters of the customer (routes the call).  ARGV: tag, customer id, event, mode, dry run, identity,
-- fingerprint, idempotency window in microseconds.
-- Answers {status, stream id, record} or {'error', code, subject}.
local function judge_customer(customer, event)
  local state, policy = customer.state, customer.policy
  if not customer.known then
    if policy.deny_unknown then
      return 'stop', 'unknown_customer'
    end
  elseif state.status == 'suspended' then
    return 'stop', 'customer_suspended'
  elseif state.status == 'cancelled' then
    return 'stop', 'customer_cancelled'
  end
  for _, override in ipairs(customer.active) do
    if override.kind == 'stop' then
      return 'stop', 'override_stop', override.id
    end
  end
  local model = event.metadata.model
  if policy.models and type(model) == 'string' then
    for _, pattern in ipairs(policy.models) do
      if matches(pattern, model) then
        return 'allow', 'allowed'
      end
    end
    return 'stop', 'model_not_allowed'
  end
  return 'allow', 'allowed'
end

local function judge_limits(customer, checks)
  local throttle, throttle_id
  for index, check in ipairs(checks) do
    local limit = customer.policy.limits[index]
    if check.denies and limit.mode ~= 'shadow' then
      if check.denies == 'stop' then
        return 'stop', check.reason, limit.id
      end
      if not throttle or check.retry_after_us > throttle.retry_after_us then
        throttle, throttle_id = check, limit.id
      end
    end
  end
  if throttle then
    return 'throttle', throttle.reason, throttle_id
  end
  return 'allow', 'allowed', ''
end

local function passing_override(customer, checks, units)
  for _, override in ipairs(customer.active) do
    local passes = override.kind == 'let_pass'
      and units_let_through(customer.standing, override.id) + units <= (override.max_units or 0)
    for index, check in ipairs(checks) do
      local limit = customer.policy.limits[index]
      if check.denies and limit.mode ~= 'shadow' then
        if check.reason == 'model_without_weight' or check.reason == 'policy_stale' then
          return nil
        end
        passes = passes and covers(override, limit.id)
      end
    end
    if passes then
      return override
    end
  end
  return nil
end

local function validate(event, policy)
  local units, unknown = 0, nil
  for meter, quantity in pairs(event.quantities) do
    if type(quantity) ~= 'number' or quantity ~= floor(quantity) or quantity < 1 or quantity > MAX_QUANTITY then
      refuse('invalid_quantity', meter)
    end
    if not policy.meters[meter] and (not unknown or meter < unknown) then
      unknown = meter
    end
    units = units + quantity
  end
  if unknown then
    refuse('unknown_meter', unknown)
  end
  event.metadata = event.metadata or {}
  return units
end

-- Allowed events are remembered in small hashes of one generation each, dropped whole when their time is over.
local function seen_bucket(tag, generation, identity)
  local first, second = identity:byte(1, 2)
  return tag .. 'seen:' .. text_of(generation) .. ':' .. text_of((first * 256 + second) % 1024)
end

local function recall(tag, generation, identity)
  for age = 0, 1 do
    local remembered = redis.call('HGET', seen_bucket(tag, generation - age, identity), identity)
    if remembered then
      return remembered
    end
  end
  return nil
end

local function coalesce(standing, rule, outcome, second)
  for _, denials in ipairs(standing[6]) do
    if denials[1] == rule and denials[2] == second then
      denials[3] = denials[3] + 1
      return denials
    end
  end
  local denials = { rule, second, 1, '', outcome }
  standing[6][#standing[6] + 1] = denials
  return denials
end

local function decide()
  local tag, customer_id, event_raw, mode, dry_run = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
  local identity, fingerprint, window_us = ARGV[6], ARGV[7], tonumber(ARGV[8])
  local now_us = clock_us()
  local meta = read_meta(tag)
  local customer = read_customer(tag, customer_id, now_us)
  local event = unpack_one(event_raw)
  local units = validate(event, customer.policy)
  read_counters(customer)

  local generation = floor(now_us / window_us)
  local remembered = not dry_run and recall(tag, generation, identity)
  if remembered then
    local known_fingerprint, epoch, seq, decided_us = struct.unpack('c6>I6I5I7', remembered)
    if known_fingerprint ~= fingerprint then
      refuse('conflict')
    end
    local result = { 'allow', mode == 'record' and 'recorded' or 'allowed', '', '', customer.standing[1], {}, 1 }
    local record = record_of(customer, meta, 'decision', mode, event_raw, result)
    return { 'duplicate', text_of(epoch) .. '-' .. text_of(seq), record, text_of(decided_us) }
  end

  local checks = {}
  for index, limit in ipairs(customer.policy.limits) do
    checks[index] = kinds[limit.kind].check(limit, event, customer.counters[index], customer.context)
  end
  local outcome, reason, override_id = judge_customer(customer, event)
  local limit_id = ''
  if outcome == 'allow' then
    outcome, reason, limit_id = judge_limits(customer, checks)
    local passing = outcome ~= 'allow' and passing_override(customer, checks, units)
    if passing then
      outcome, reason, override_id = 'allow', 'allowed_by_override', passing.id
    end
  end
  if mode == 'record' then
    outcome, reason, limit_id, override_id = 'allow', 'recorded', '', nil
  end

  local counters, crossed, fields, throttled_until_us = {}, {}, {}, customer.standing[2]
  for index, check in ipairs(checks) do
    local limit = customer.policy.limits[index]
    counters[index] = customer.counters[index]
    if outcome == 'allow' and check.counter then
      counters[index] = check.counter
      fields[#fields + 1] = counter_field(limit)
      fields[#fields + 1] = pack(check.counter)
      for _, name in ipairs(check.crossed or {}) do
        crossed[#crossed + 1] = { limit.id, name }
      end
    end
    if outcome ~= 'allow' and check.reason == 'rate_exceeded' and limit.mode ~= 'shadow' then
      throttled_until_us = now_us + 10000000
    end
  end
  local used_id = reason == 'allowed_by_override' and override_id or nil
  local override_units = count_override_units(customer, used_id, units)
  local standing = next_standing(customer, counters, throttled_until_us, override_units)
  local result = { outcome, reason, limit_id, override_id or '', standing[1], crossed, 1 }
  local record = record_of(customer, meta, 'decision', mode, event_raw, result)
  if dry_run then
    return { 'dry_run', '', record, text_of(now_us) }
  end

  local status, id = 'decided', nil
  local denials = outcome ~= 'allow' and coalesce(standing, reason .. '|' .. limit_id, outcome, floor(now_us / 1000000))
  if denials and denials[3] > 10 then
    status, id = 'coalesced', denials[4]
  else
    id = append(customer, meta, record)
    if denials then
      denials[4] = id
    end
  end
  flush_denials(customer, meta, standing)
  write_standing(customer, standing, fields)
  if outcome == 'allow' then
    local bucket = seen_bucket(tag, generation, identity)
    local sequence = tonumber(id:match('-(%d+)$'))
    redis.call('HSET', bucket, identity, struct.pack('c6>I6I5I7', fingerprint, tonumber(meta.epoch), sequence, now_us))
    redis.call('PEXPIRE', bucket, text_of(floor(window_us * 2 / 1000)))
  end
  if not customer.state then
    redis.call('XADD', tag .. 'hints', 'MAXLEN', '~', '1000', '*', 'c', customer_id)
  end
  return { status, id, record, text_of(now_us) }
end

return answer(decide)
