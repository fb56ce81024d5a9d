-- One of the slots in which processes may let a share of the outage allowance pass by themselves: takes one, or keeps it.
-- KEYS: the slots: `count`, and `slot:<index>` as "journal until before" (microseconds).  ARGV: journal, for how long it is
-- to be held and for how long nobody's slot is left alone, both microseconds; '1' to give it back.
-- Answers {index (0: none is free), how many there are, held until, grants only in periods that begin after, now}.
-- Whoever holds a slot lets pass only in periods that began before its time was over, and whoever takes it over only in
-- later ones: the first may still be at work where Redis can't see it, and both together stay below one share.
return function()
  local slots, journal, hold_us, alone_us, leaves = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
  local _, now_us = use('customer').clock()
  local count = tonumber(redis.call('HGET', slots, 'count'))
  if not count then
    refuse('not_prepared')
  end
  local free, abandoned, oldest_us = nil, nil, now_us - alone_us
  for index = 1, count do
    local raw = redis.call('HGET', slots, 'slot:' .. index)
    if not raw then
      free = free or index
    else
      local holder, until_us, before_us = raw:match('^(%S+) (%d+) (%d+)$')
      if holder == journal then
        if leaves then
          redis.call('HDEL', slots, 'slot:' .. index)
          return { 0, count, '0', '0', string.format('%.0f', now_us) }
        end
        free, abandoned = { index, tonumber(before_us) }, nil
        break
      elseif tonumber(until_us) < oldest_us then
        abandoned, oldest_us = { index, math.max(tonumber(before_us), tonumber(until_us)) }, tonumber(until_us)
      end
    end
  end
  if leaves or not (free or abandoned) then
    return { 0, count, '0', '0', string.format('%.0f', now_us) }
  end
  local index, before_us = free, 0
  if type(free) == 'table' then
    index, before_us = free[1], free[2]
  elseif not free then
    index, before_us = abandoned[1], abandoned[2]
  end
  local until_text, before_text = string.format('%.0f', now_us + hold_us), string.format('%.0f', before_us)
  redis.call('HSET', slots, 'slot:' .. index, journal .. ' ' .. until_text .. ' ' .. before_text)
  return { index, count, until_text, before_text, string.format('%.0f', now_us) }
end
