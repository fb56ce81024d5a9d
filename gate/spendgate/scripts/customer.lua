-- A customer as the scripts see one: policy, state, overrides and counters have four writers and are joined here. It is the
-- moment of the decision as well: limits look at `now_us`, `reserving`, `stale_mirror_us`, `granted` and `grants`.
--
-- A rule is a limit as policy.py compiles it: {kind, id, meter or meters, stops, enforced, whole, match, per, most values,
-- and from OWN on what the kind needs}. `whole`: it stops the customer when it is exhausted.
local call, unpacked, packed = redis.call, struct.unpack, struct.pack
local pack, unpack_one = cmsgpack.pack, cmsgpack.unpack
local customer = {}

local STATES = { [0] = 'ok', 'throttled', 'stopped', 'suspended' }
local STANDING = '>BI7I7I6I7'

local function standing_of(raw)
  if not raw then
    return {
      state = 0, throttled_until_us = 0, next_change_us = 0, version = 0, reservations_end_us = 0,
      override_units = {}, denials = {},
    }
  end
  local state, throttled_until_us, next_change_us, version, reservations_end_us, at = unpacked(STANDING, raw)
  local more = at <= #raw and unpack_one(raw:sub(at))
  return {
    state = state, throttled_until_us = throttled_until_us, next_change_us = next_change_us, version = version,
    reservations_end_us = reservations_end_us,
    override_units = more and more[1] or {}, denials = more and more[2] or {},
  }
end

function customer.clock()
  local time = call('TIME') -- once per script: it moves inside of one on Redis 7
  return tonumber(time[1]), tonumber(time[1]) * 1000000 + tonumber(time[2])
end

function customer.meta(tag)
  local meta = call('HMGET', tag .. 'meta', 'epoch', 'seq', 'full_at', 'mirrored_at_us', 'generation')
  if not meta[1] then
    refuse('not_prepared')
  end
  return meta
end

-- The counters of a policy, in the order of its limits; those of limits with `per` are kept elsewhere, and read for an
-- event. The last is the standing.
function customer.counters(self)
  local counters = call('HMGET', self.counters_key, unpack(self.fields))
  for index, rule in ipairs(self.limits) do
    if rule[8] then
      counters[index] = false -- what is here is from before the limit had `per`
    end
  end
  return counters
end

-- Reads a customer, with the counters of the policy in force (those of limits with `per` are read for an event).
function customer.read(tag, id, meta, now_seconds, now_us)
  local blobs = call('MGET', tag .. 'state:' .. id, tag .. 'overrides:' .. id)
  local state_raw, digest, status, has_grants, granted = blobs[1], nil, 0, 0, 0
  if state_raw then
    digest, status, has_grants, granted = unpacked('>c32BBI7', state_raw)
  end
  if status == 3 or not state_raw then -- nobody knows this customer
    digest = call('GET', tag .. 'default') or ''
  end
  local rules = call('GET', tag .. 'rules:' .. digest)
  if not rules then
    refuse('no_policy', digest)
  end
  local deny_unknown, meters, models, max_staleness_us, terms, fields, limits = unpack(unpack_one(rules))
  local self = {
    id = id, tag = tag, meta = meta, now_seconds = now_seconds, now_us = now_us, generation = meta[5],
    state_raw = state_raw, digest = digest, status = state_raw and status or 3,
    granted = granted > 0 and granted - 1,
    grants = has_grants > 0 and unpack_one(state_raw:sub(42)).grants,
    overrides_raw = blobs[2], overrides = blobs[2] and unpack_one(blobs[2])[2],
    deny_unknown = deny_unknown, meters = meters, models = models, max_staleness_us = max_staleness_us, terms = terms,
    fields = fields, limits = limits, counters_key = tag .. 'counters:' .. id, counters = false,
    standing_raw = false, standing = false, moves = false,
    reserving = false, stale_mirror_us = 0, quantities = false, metadata = false,
  }
  self.counters = customer.counters(self)
  self.standing_raw = self.counters[#fields]
  self.standing = standing_of(self.standing_raw)
  return self
end

local function binary(raw)
  return #raw < 256 and packed('>BBc0', 196, #raw, raw) or packed('>BI2c0', 197, #raw, raw)
end

-- One record; see record.py. `facts` of the reservation that it is about, if it is about one; `repaired` counters, if any.
function customer.record(self, kind, mode, event_raw, result, facts, repaired)
  local count, counters, standing_raw = #self.limits, {}, self.standing_raw
  for index = 1, count do
    local raw = self.counters[index]
    counters[index] = raw and binary(raw) or NIL
  end
  local header = count < 16 and string.char(144 + count) or packed('>BI2', 220, count)
  return (repaired and '\159' or facts and '\158' or '\157')
    .. pack(1, kind, self.now_us, mode, self.id, self.digest, tonumber(self.meta[4]) or 0)
    .. (event_raw or NIL)
    .. (self.state_raw and self.state_raw:sub(42) or NIL)
    .. header
    .. table.concat(counters)
    .. (standing_raw and binary(standing_raw) or NIL)
    .. (self.overrides_raw or NIL)
    .. result
    .. (facts or repaired and NIL or '')
    .. (repaired or '')
end

-- What was decided, as a record holds it. `crossed` nil is none.
function customer.result(outcome, reason, limit_id, override_id, state, crossed, count)
  return '\151'
    .. pack(outcome, reason, limit_id, override_id, STATES[state])
    .. (crossed and pack(crossed) or '\144')
    .. pack(count or 1)
end

-- The first write of every script: refused whole when Redis is out of memory, so nothing is ever half done. The id says
-- where an entry stands: the partition's epoch, and a sequence without gaps.
function customer.append(self, record)
  local meta = self.meta
  meta[2] = meta[2] + 1
  local id = meta[1] .. '-' .. string.format('%.0f', meta[2])
  call('XADD', self.tag .. 'outbox', id, 'r', record)
  call('HSET', self.tag .. 'meta', 'seq', meta[2])
  return id
end

-- When the sweep has to come by: the state changes, a reservation ends, or denials that were only counted can be told.
local function due_of(standing)
  local due_us = standing.next_change_us
  local function also(instant_us)
    due_us = due_us == 0 and instant_us or math.min(due_us, instant_us)
  end
  if standing.reservations_end_us > 0 then
    also(standing.reservations_end_us)
  end
  for _, denials in ipairs(standing.denials) do
    if denials[3] > 10 then
      also((denials[2] + 1) * 1000000)
    end
  end
  return due_us
end

-- Writes counters (`fields`: name, value, ...) and the standing, when it is due for the sweep, and a line in the feed that
-- flag providers follow. `sweeping`: the customer's place in the calendar is used up.
function customer.write(self, standing, fields, sweeping)
  local before = self.standing
  local raw = packed(
    STANDING, standing.state, standing.throttled_until_us, standing.next_change_us, standing.version,
    standing.reservations_end_us
  )
  if next(standing.override_units) or #standing.denials > 0 then
    raw = raw .. pack({ standing.override_units, standing.denials })
  end
  if raw ~= self.standing_raw then
    fields[#fields + 1] = '*'
    fields[#fields + 1] = raw
  end
  if #fields > 0 then
    call('HSET', self.counters_key, unpack(fields))
  end
  if raw ~= self.standing_raw or sweeping then
    local due_us, due_before_us = due_of(standing), due_of(before)
    if due_us > 0 and (due_us ~= due_before_us or sweeping) then
      call('ZADD', self.tag .. 'changes', due_us, self.id)
    elseif due_us == 0 and (due_before_us > 0 or sweeping) then
      call('ZREM', self.tag .. 'changes', self.id)
    end
    if standing.version ~= before.version then
      call('XADD', self.tag .. 'feed', 'MAXLEN', '~', 1000, '*', 'c', self.id, 'v', standing.version)
    end
  end
  self.standing, self.standing_raw = standing, raw
end

return customer
