-- A customer as the scripts see one: policy, state, overrides and counters have four writers and are joined here. It is the
-- moment of the decision as well: limits look at `now_us`, `reserving`, `stale_mirror_us`, `granted` and `grants`.
--
-- A rule is a limit as policy.py compiles it: {kind, id, meter or meters, stops, enforced, whole, match, per, most values,
-- and from OWN on what the kind needs}. `whole`: it stops the customer when it is exhausted. Lists of a policy are strings
-- of MessagePack values: a table of all the values that `unpack` returns is made at once, one of an array grows.
local call, unpacked, packed = redis.call, struct.unpack, struct.pack
local pack, unpack_all = cmsgpack.pack, cmsgpack.unpack

local STATES = { [0] = 'ok', 'throttled', 'stopped', 'suspended' }
local STANDING = '>BI7I7I6I7'
local LIMITS = 7 -- where they begin in the rules of a policy
local RULES_KEPT = 2048
local kept_rules, kept_count = NONE, 0

local function standing_of(raw)
  if not raw then
    return {
      state = 0, throttled_until_us = 0, next_change_us = 0, version = 0, reservations_end_us = 0,
      override_units = NONE, denials = NONE,
    }
  end
  local state, throttled_until_us, next_change_us, version, reservations_end_us, at = unpacked(STANDING, raw)
  local more = at <= #raw and unpack_all(raw:sub(at))
  return {
    state = state, throttled_until_us = throttled_until_us, next_change_us = next_change_us, version = version,
    reservations_end_us = reservations_end_us,
    override_units = more and more[1] or NONE, denials = more and more[2] or NONE,
  }
end

local function clock()
  local time = call('TIME') -- once per script: it moves inside of one on Redis 7
  return tonumber(time[1]), tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function meta(tag)
  local found = call('HMGET', tag .. 'meta', 'epoch', 'seq', 'full_at', 'mirrored_at_us', 'generation')
  if not found[1] then
    refuse('not_prepared')
  end
  return found
end

-- The counters of a policy, in the order of its limits; those of limits with `per` are kept elsewhere, and read for an
-- event. The last is the standing.
local function counters_of(self)
  local counters = call('HMGET', self.counters_key, unpack(self.fields))
  local limits = self.limits
  for index = 1, #limits do
    if limits[index][8] then
      counters[index] = false -- what is here is from before the limit had `per`
    end
  end
  return counters
end

-- The parts of a policy's rules, and of these the fields of its counters and its limits as tables: nobody changes them, so
-- a library keeps them, for as many policies as are in use on one Redis.
local function rules_of(raw)
  local known = kept_rules[raw]
  if known then
    return known[1], known[2], known[3]
  end
  local parts = { unpack_all(raw) }
  local fields, limits = { unpack_all(parts[6]) }, {}
  for index = LIMITS, #parts do
    limits[index - LIMITS + 1] = { unpack_all(parts[index]) }
  end
  if LASTING then
    if kept_count % RULES_KEPT == 0 then -- the first, or enough of them
      kept_rules = {}
    end
    kept_rules[raw], kept_count = { parts, fields, limits }, kept_count + 1
  end
  return parts, fields, limits
end

-- Reads a customer, with the counters of the policy in force (those of limits with `per` are read for an event). `given`
-- is what is about to be written: a state, the rules that it names, or overrides. Two GETs, because MGET takes a key of
-- another type for an absent one: the customer would be nobody, and a stop would be gone.
local function read(tag, id, meta, now_seconds, now_us, given)
  local state_raw = given and given.state_raw or call('GET', tag .. 'state:' .. id)
  local overrides_raw = given and given.overrides_raw or call('GET', tag .. 'overrides:' .. id)
  local digest, status, has_grants, granted = nil, 0, 0, 0
  if state_raw then
    digest, status, has_grants, granted = unpacked('>c32BBI7', state_raw)
  end
  if status == 3 or not state_raw then -- nobody knows this customer
    digest = call('GET', tag .. 'default') or ''
  end
  local rules = given and given.digest == digest and given.rules or call('GET', tag .. 'rules:' .. digest)
  if not rules then
    refuse('no_policy', digest)
  end
  local parts, fields, limits = rules_of(rules)
  local self = {
    id = id, tag = tag, meta = meta, now_seconds = now_seconds, now_us = now_us, generation = meta[5],
    state_raw = state_raw, digest = digest, status = state_raw and status or 3,
    granted = granted > 0 and granted - 1,
    grants = has_grants > 0 and unpack_all(state_raw:sub(42)).grants,
    overrides_raw = overrides_raw, overrides = overrides_raw and unpack_all(overrides_raw)[2],
    deny_unknown = parts[1], meters = parts[2], models = parts[3], max_staleness_us = parts[4], terms = parts[5],
    fields = fields, limits = limits, counters_key = tag .. 'counters:' .. id, counters = false,
    standing_raw = false, standing = false, moves = false,
    reserving = false, stale_mirror_us = 0, quantities = false, metadata = false,
  }
  self.counters = counters_of(self)
  self.standing_raw = self.counters[#fields]
  self.standing = standing_of(self.standing_raw)
  return self
end

-- One record; see record.py. `facts` of the reservation that it is about, if it is about one; `repaired`
-- counters, if any.
local function record(self, kind, mode, event_raw, result, facts, repaired)
  local count, counters, state_raw, char = #self.limits, self.counters, self.state_raw, string.char
  local parts = {
    repaired and '\159' or facts and '\158' or '\157',
    pack(1, kind, self.now_us, mode, self.id, self.digest, tonumber(self.meta[4]) or 0),
    event_raw or NIL,
    state_raw and state_raw:sub(42) or NIL,
    count < 16 and char(144 + count) or packed('>BI2', 220, count),
  }
  local at = 5
  for index = 1, count + 1 do -- what follows the counters is the standing
    local raw = index <= count and counters[index] or index > count and self.standing_raw
    if raw then
      parts[at + 1] = #raw < 256 and char(196, #raw) or packed('>BI2', 197, #raw)
      parts[at + 2] = raw
      at = at + 2
    else
      parts[at + 1] = NIL
      at = at + 1
    end
  end
  parts[at + 1], parts[at + 2], parts[at + 3] = self.overrides_raw or NIL, result, facts or repaired and NIL or ''
  parts[at + 4] = repaired or ''
  return table.concat(parts)
end

-- What was decided, as a record holds it. `crossed` nil is none.
local function result(outcome, reason, limit_id, override_id, state, crossed, count)
  local judgement = '\151' .. pack(outcome, reason, limit_id, override_id, STATES[state])
  if crossed or count then
    return judgement .. (crossed and pack(crossed) or '\144') .. pack(count or 1)
  end
  return judgement .. '\144\001'
end

-- The first write of every script: refused whole when Redis is out of memory, so nothing is ever half done. The id says
-- where an entry stands: the partition's epoch, and a sequence without gaps, which is given, too, as text. Nothing is
-- written in a partition that is degraded, which has lost what it was told, until it is restored.
local function append(self, record)
  local meta = self.meta
  if meta[3] == DEGRADED and not self.restoring then
    refuse('backlog_full')
  end
  local seq = string.format('%.0f', meta[2] + 1)
  local id = meta[1] .. '-' .. seq
  call('XADD', self.tag .. 'outbox', id, 'r', record)
  call('HSET', self.tag .. 'meta', 'seq', seq)
  meta[2] = seq
  return id, seq
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

-- An error after the first write would leave half of a step, and a key of another type is one. So keys that are written
-- and not read are asked for their length before: all of them here, and for a decision those that it is about to change.
local function probe(self)
  call('XLEN', self.tag .. 'outbox')
  call('ZCARD', self.tag .. 'changes')
  call('XLEN', self.tag .. 'feed')
end

local function probe_changed(self, standing)
  if #standing.denials > 0 or due_of(standing) ~= due_of(self.standing) then
    call('ZCARD', self.tag .. 'changes')
  end
  if standing.version ~= self.standing.version then
    call('XLEN', self.tag .. 'feed')
  end
  if not self.state_raw then
    call('XLEN', self.tag .. 'hints')
  end
end

-- Writes counters (`fields`: name, value, ...) and the standing, when it is due for the sweep, and a line in the feed that
-- flag providers follow. `sweeping`: the customer's place in the calendar is used up.
local function write(self, standing, fields, sweeping)
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

return {
  clock = clock, meta = meta, counters = counters_of, rules_of = rules_of, read = read, record = record, result = result,
  append = append, write = write, probe = probe, probe_changed = probe_changed,
}
