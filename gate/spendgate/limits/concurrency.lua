-- Twin of concurrency.py. The rule's own part: the most. A counter is how many reservations are open.
local OWN = 10

local function read(raw)
  return raw and struct.unpack('>I5', raw) or 0
end

local function check(rule, _, raw, context)
  if not context.reserving then
    return nil
  end
  local count = read(raw)
  local after = struct.pack('>I5', count + 1)
  if count >= rule[OWN] then
    local denies = rule[4] and 'stop' or 'throttle'
    return denies, 'too_many_open', denies == 'throttle' and 1000000 or 0, after
  end
  return nil, nil, nil, after
end

local function finish(_, held, _, raw)
  if held == 0 then
    return nil
  end
  return struct.pack('>I5', math.max(0, read(raw) - 1))
end

local function held()
  return 1
end

local function holds(raw)
  return read(raw), 0
end

local function holding(_, reserved)
  return struct.pack('>I5', reserved)
end

return { check = check, finish = finish, held = held, holds = holds, holding = holding }
