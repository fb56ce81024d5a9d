-- Every script begins with this: constants, refusals, and the modules that follow (see script.py). In a library it is run
-- once, and what it makes is kept (LASTING); elsewhere Redis runs it from its first line each time, and making functions and
-- growing tables is a good part of what a decision costs. So a module is made when it is first used, finds others by `use`
-- instead of as upvalues, and names what it offers in one table at its end. What speaks of one run is in no upvalue. Whole
-- numbers only, below 9e15, where Lua is exact. Everything is read and computed before the first write, because an error
-- rolls nothing back.
local MAX_COUNTER = 9e15
local NIL = '\192'
local NONE = {} -- a list that nobody adds to
local DEGRADED = '-1' -- where a partition is full, when it is to be restored first
local STALE_RETRY_US = 60000000
local modules, seldom, rest -- what makes each module; those of `seldom` are looked for last
local made = {}

local function use(name)
  local module = made[name]
  if not module then
    local make = modules[name]
    if not make then
      rest = rest or seldom()
      make = rest[name]
    end
    module = make()
    made[name] = module
  end
  return module
end

-- A failed validation, raised as a table so that `answer` can tell it; nothing has been written then.
local function refuse(code, subject)
  error({ code = code, subject = subject or '' }, 0)
end

-- Raises what was caught, as it was: since Redis 7, its pcall gives only the text of an error's table, and text that is
-- raised again would be `ERR OOM ...` to the caller, who has to know OOM, READONLY and WRONGTYPE from a fault of ours.
-- Redis 7 crashes when a function raises any other table.
local function raise(fault)
  if type(fault) == 'table' then
    fault = fault.err or 'ERR ' .. tostring(fault.code)
  end
  error(fault:find('^%u+ ') and { err = fault } or fault, 0)
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
  raise(result)
end
