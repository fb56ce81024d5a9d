-- A customer as the scripts see one: four values with four writers, joined here, and the standing derived from them.
local function read_customer(tag, customer_id, now_us)
  local blobs = redis.call('MGET', tag .. 'state:' .. customer_id, tag .. 'overrides:' .. customer_id)
  local customer = { id = customer_id, tag = tag, counters_key = tag .. 'counters:' .. customer_id }
  customer.state_raw, customer.overrides_raw = blobs[1], blobs[2]
  customer.state = blobs[1] and unpack_one(blobs[1]) or nil
  customer.overrides = blobs[2] and unpack_one(blobs[2])[2] or {}
  customer.known = customer.state ~= nil and customer.state.status ~= 'unknown'
  if customer.known then
    customer.digest = customer.state.policy
  else
    customer.digest = redis.call('GET', tag .. 'default')
  end
  local policy = customer.digest and redis.call('GET', tag .. 'policy:' .. customer.digest)
  if not policy then
    refuse('no_policy', customer.digest or '')
  end
  customer.policy = unpack_one(policy)
  customer.context = { now_us = now_us, granted_micro_credits = customer.state and customer.state.granted_micro_credits }
  customer.active = {}
  for _, override in ipairs(customer.overrides) do
    if override.until_us > now_us then
      customer.active[#customer.active + 1] = override
    end
  end
  return customer
end

local function counter_field(limit)
  return limit.kind .. ':' .. limit.id
end

-- All counters of the policy and the standing in one HMGET. A stored value is MessagePack, kept raw for the record.
local function read_counters(customer)
  local limits = customer.policy.limits
  local fields = {}
  for index, limit in ipairs(limits) do
    fields[index] = counter_field(limit)
  end
  fields[#fields + 1] = '*'
  local raw = redis.call('HMGET', customer.counters_key, unpack(fields))
  local counters = {}
  for index = 1, #limits do
    if raw[index] then
      counters[index] = unpack_one(raw[index])
    else
      raw[index] = NIL
    end
  end
  customer.standing_raw = raw[#fields]
  raw[#fields] = nil
  local count = #limits
  local header = count < 16 and string.char(144 + count) or '\220' .. struct.pack('>I2', count)
  customer.counters, customer.counters_raw = counters, header .. table.concat(raw)
  customer.standing = customer.standing_raw and unpack_one(customer.standing_raw) or { 'ok', 0, 0, 0, {}, {} }
end

local function units_let_through(standing, override_id)
  for _, pair in ipairs(standing[5]) do
    if pair[1] == override_id then
      return pair[2]
    end
  end
  return 0
end

local function covers(override, limit_id)
  for _, bypassed in ipairs(override.bypass or { '*' }) do
    if bypassed == '*' or bypassed == limit_id then
      return true
    end
  end
  return false
end

-- The standing after now: state, throttled until, next change, version, units per override, denials being counted.
local function next_standing(customer, counters, throttled_until_us, override_units)
  local now_us, standing = customer.context.now_us, customer.standing
  local next_change_us = nil
  local function changes_at(instant_us)
    next_change_us = next_change_us and min(next_change_us, instant_us) or instant_us
  end
  local stopped, throttled, passing = false, throttled_until_us > now_us, {}
  local counted = { standing[1], 0, 0, 0, override_units }
  for _, override in ipairs(customer.active) do
    changes_at(override.until_us)
    if override.kind == 'stop' then
      stopped = true
    elseif units_let_through(counted, override.id) < (override.max_units or 0) then
      passing[#passing + 1] = override
    end
  end
  if throttled then
    changes_at(throttled_until_us)
  end
  for index, limit in ipairs(customer.policy.limits) do
    local until_us = nil
    if limit.mode ~= 'shadow' then
      until_us = kinds[limit.kind].exhausted_until(limit, counters[index], customer.context)
    end
    if until_us then
      if until_us > 0 then
        changes_at(until_us)
      end
      local let_pass = false
      for _, override in ipairs(passing) do
        let_pass = let_pass or covers(override, limit.id)
      end
      if not let_pass then
        if (limit.when_exceeded or 'stop') == 'stop' then
          stopped = true
        else
          throttled = true
        end
      end
    end
  end
  local name = stopped and 'stopped' or throttled and 'throttled' or 'ok'
  local status = customer.state and customer.state.status
  if status == 'suspended' or status == 'cancelled' then
    name, next_change_us = 'suspended', nil
  end
  local version = standing[4] + (name ~= standing[1] and 1 or 0)
  return { name, throttled_until_us, next_change_us or 0, version, override_units, standing[6] }
end

-- Units per override that still exists, in the overrides' order, zeros left out.
local function count_override_units(customer, used_id, units)
  local counted = {}
  for _, override in ipairs(customer.overrides) do
    local total = units_let_through(customer.standing, override.id) + (override.id == used_id and units or 0)
    if total > 0 then
      counted[#counted + 1] = { override.id, total }
    end
  end
  return counted
end

-- The stream's own id is the partition's epoch and a gapless sequence: `<epoch>-<seq>`.
local function read_meta(tag)
  local meta = redis.call('HMGET', tag .. 'meta', 'epoch', 'seq', 'mirrored_at_us')
  if not meta[1] then
    refuse('not_prepared')
  end
  return { epoch = meta[1], seq = tonumber(meta[2]), mirrored_at_us = tonumber(meta[3]) or 0, first = true }
end

local function record_of(customer, meta, kind, mode, event_raw, result)
  return '\157'
    .. pack(1, kind, customer.context.now_us, mode, customer.id, customer.digest, meta.mirrored_at_us)
    .. (event_raw or NIL)
    .. (customer.state_raw or NIL)
    .. customer.counters_raw
    .. (customer.standing_raw or NIL)
    .. (customer.overrides_raw or NIL)
    .. pack(result)
end

-- The first write of every script: refused whole when Redis is out of memory, so nothing is ever half done.
local function append(customer, meta, record)
  meta.seq = meta.seq + 1
  local id = meta.epoch .. '-' .. text_of(meta.seq)
  redis.call('XADD', customer.tag .. 'outbox', id, 'r', record)
  redis.call('HSET', customer.tag .. 'meta', 'seq', text_of(meta.seq))
  return id
end

-- Denials beyond the first ten of one rule in one second were only counted; the second being over, they are told.
local function flush_denials(customer, meta, standing)
  local second = floor(customer.context.now_us / 1000000)
  local kept = {}
  for _, denials in ipairs(standing[6]) do
    if denials[2] == second then
      kept[#kept + 1] = denials
    elseif denials[3] > 10 then
      local reason, limit_id = denials[1]:match('^([^|]*)|(.*)$')
      local result = { denials[5], reason, limit_id, '', standing[1], {}, denials[3] - 10 }
      append(customer, meta, record_of(customer, meta, 'denials', 'decide', nil, result))
    end
  end
  standing[6] = kept
end

-- Writes what changed: the standing, when it changes next, and a line in the feed that flag providers follow.
local function write_standing(customer, standing, fields)
  local raw = pack(standing)
  if raw ~= customer.standing_raw then
    fields[#fields + 1] = '*'
    fields[#fields + 1] = raw
  end
  if #fields > 0 then
    redis.call('HSET', customer.counters_key, unpack(fields))
  end
  local due_us = standing[3]
  for _, denials in ipairs(standing[6]) do
    if denials[3] > 10 then
      local told_us = (denials[2] + 1) * 1000000
      due_us = due_us == 0 and told_us or min(due_us, told_us)
    end
  end
  local was_due_us = customer.standing[3]
  if due_us > 0 and (due_us ~= was_due_us or due_us ~= standing[3] or customer.sweeping) then
    redis.call('ZADD', customer.tag .. 'changes', text_of(due_us), customer.id)
  elseif due_us == 0 and (was_due_us > 0 or customer.sweeping) then
    redis.call('ZREM', customer.tag .. 'changes', customer.id)
  end
  if standing[4] ~= customer.standing[4] then
    redis.call('XADD', customer.tag .. 'feed', 'MAXLEN', '~', '1000', '*', 'c', customer.id, 'v', text_of(standing[4]))
  end
end

-- Recomputes the standing when nothing was asked. `changed` says that flags must be told even if the state is the same.
local function refresh_customer(customer, meta, changed)
  local override_units = count_override_units(customer, nil, 0)
  local standing = next_standing(customer, customer.counters, customer.standing[2], override_units)
  if changed and standing[4] == customer.standing[4] then
    standing[4] = standing[4] + 1
  end
  standing[6] = customer.standing[6]
  flush_denials(customer, meta, standing)
  if standing[1] ~= customer.standing[1] then
    local result = { 'allow', 'standing', '', '', standing[1], {}, 1 }
    append(customer, meta, record_of(customer, meta, 'standing', 'decide', nil, result))
  end
  write_standing(customer, standing, {})
  return standing
end

-- Runs a script's body; a refusal becomes {'error', code, subject}, anything else stays a script error.
local function answer(body)
  local done, result = pcall(body)
  if done then
    return result
  end
  if type(result) == 'table' and result.code then
    return { 'error', result.code, result.subject }
  end
  error(result, 0)
end
