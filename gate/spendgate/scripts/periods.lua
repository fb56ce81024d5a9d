-- Start and end, in seconds, of the window's period at `now`. A window is its length and an anchor, or 0 and a table of
-- boundaries, eight hexadecimal digits each; nil when that table is exhausted. Twin of window.py.
return function(length, anchor, now)
  if length > 0 then
    local start = now - (now - anchor) % length
    return start, start + length
  end
  local boundaries, count = anchor, #anchor / 8
  local low, high = 0, count -- the first boundary after now is in [low, high]
  while low < high do
    local middle = math.floor((low + high) / 2)
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
