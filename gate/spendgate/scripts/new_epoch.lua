-- Begins a new epoch of a degraded partition, and moves to it what was decided since Redis lost its tail: those entries have ids
-- that the store knows as others'. To be called again until nothing is left; a kill in between loses nothing.
-- KEYS: the partition's meta.  ARGV: tag, id of the last entry that both have, the new epoch, how many entries at most.
-- Answers {entries moved, sequence of the new epoch so far}.
return function()
  local tag, common, epoch, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
  local outbox, meta = tag .. 'outbox', redis.call('HMGET', tag .. 'meta', 'epoch', 'seq', 'full_at')
  if meta[3] ~= DEGRADED then
    refuse('not_degraded')
  end
  local sequence = meta[1] == epoch and tonumber(meta[2]) or 0
  local last = string.format('%.0f', tonumber(epoch) - 1)
  local entries = redis.call('XRANGE', outbox, '(' .. common, last, 'COUNT', most)
  redis.call('HSET', tag .. 'meta', 'epoch', epoch, 'seq', string.format('%.0f', sequence))
  for _, entry in ipairs(entries) do
    sequence = sequence + 1
    local at = string.format('%.0f', sequence)
    redis.call('XADD', outbox, epoch .. '-' .. at, unpack(entry[2]))
    redis.call('HSET', tag .. 'meta', 'seq', at)
    redis.call('XDEL', outbox, entry[1])
  end
  return { #entries, string.format('%.0f', sequence) }
end
