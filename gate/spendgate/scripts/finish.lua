-- A debit that comes later than it took effect: a reservation that ends, or what an outage let pass. Twin of `finish` in
-- reservation.py. `ending`: {held or false, committed, metadata, effective_at_us, corrects}. Writes the record and the
-- counters of the periods that were open then; gives the record's id. The standing is the caller's.
local events = use('events')

local function counter_of(customer, index, rule, ending, at, places)
  if rule[8] then
    local raw
    raw, places[index] = use('per').read(customer, rule, ending.metadata, at)
    return raw
  end
  local raw = customer.counters[index]
  if raw and rule[1] == 'quota' then
    local start = use('periods')(rule[10], rule[11], at)
    if start and struct.unpack('>I5', raw) ~= start then
      return use('kept').find(customer, index, raw, start, true)
    end
  end
  return raw
end

return function(customer, ending, kind, mode, reason, event_raw, facts_raw)
  local at = math.floor(ending.effective_at_us / 1000000)
  local after, places, crossed = {}, {}, nil
  for index, rule in ipairs(customer.limits) do
    local held = ending.held and events.amount_of(ending.held, rule[3]) or 0
    local amount = events.amount_of(ending.committed, rule[3])
    local concerned = (held ~= 0 or amount ~= 0) and events.applies(rule[7], ending.metadata)
    if concerned or not rule[8] then
      local raw = counter_of(customer, index, rule, ending, at, places)
      customer.counters[index] = raw
      local kind, names = use(rule[1]), nil
      local keeps = not ending.corrects or raw and raw ~= '' and kind.keeps and kind.keeps(rule, raw, at)
      if concerned and keeps and raw ~= '' then
        after[index], names = kind.finish(rule, held, amount, raw, customer, at, ending)
        for _, name in ipairs(names or {}) do
          crossed = crossed or {}
          crossed[#crossed + 1] = { rule[2], name }
        end
      end
    end
  end
  local about = use('customer')
  local result = about.result('allow', reason, '', '', customer.standing.state, crossed)
  local id = about.append(customer, about.record(customer, kind, mode, event_raw, result, facts_raw))
  local fields = {}
  for index in ipairs(customer.limits) do
    if after[index] then
      use('kept').keep(customer, index, after[index], fields, places)
    end
  end
  if #fields > 0 then
    redis.call('HSET', customer.counters_key, unpack(fields))
  end
  return id
end
