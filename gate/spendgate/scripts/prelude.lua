-- Shared by every script: the clock, MessagePack, periods, patterns. Integers only, below 9e15, where Lua is exact.
-- Everything is read and computed before the first write, because an error rolls nothing back.
local MAX_COUNTER = 9e15
local MAX_QUANTITY = 1e12
local NIL = '\192'
local pack, unpack_one = cmsgpack.pack, cmsgpack.unpack
local floor, max, min = math.floor, math.max, math.min
local kinds = {}

-- Read once per script: TIME moves inside a script on Redis 7.
local function clock_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function text_of(integer)
  return string.format('%.0f', integer)
end

local function ceil_div(dividend, divisor)
  return -floor(-dividend / divisor)
end

-- A failed validation, raised as a table so that the script's entry can answer it; nothing has been written then.
local function refuse(code, subject)
  error({ code = code, subject = subject or '' }, 0)
end

local function checked_sum(counter, amount, limit)
  if counter + amount > MAX_COUNTER then
    refuse('counter_full', limit.id)
  end
  return counter + amount
end

local function amount_of(event, meters)
  local amount = 0
  for _, meter in ipairs(meters) do
    amount = amount + (event.quantities[meter] or 0)
  end
  return amount
end

local function matches(pattern, text)
  if pattern:sub(-1) == '*' then
    return text:sub(1, #pattern - 1) == pattern:sub(1, -2)
  end
  return text == pattern
end

-- Start and end, in seconds, of the window's period at now_us; nil when the table of boundaries is exhausted.
local function period_at(window, now_us)
  local now = floor(now_us / 1000000)
  local length = window.length_seconds
  if length then
    local start = now - (now - (window.anchor_seconds or 0)) % length
    return start, start + length
  end
  local boundaries = window.boundaries
  local count = #boundaries / 8
  local low, high = 0, count -- the first boundary after now is in [low, high]
  while low < high do
    local middle = floor((low + high) / 2)
    if tonumber(boundaries:sub(middle * 8 + 1, middle * 8 + 8), 16) > now then
      high = middle
    else
      low = middle + 1
    end
  end
  if low == 0 or low == count then
    return nil
  end
  local at = (low - 1) * 8 + 1
  return tonumber(boundaries:sub(at, at + 7), 16), tonumber(boundaries:sub(at + 8, at + 15), 16)
end
