-- Forgets entries of the outbox that the store has for good, all but the last: that one stays as a mark of what Redis was
-- told. If it isn't there as it was stored, Redis has lost a tail, and nothing is trimmed.
-- KEYS: the partition's meta.  ARGV: tag, id of the last entry stored, its record, how many entries the store may lack.
-- Answers 1, or 0 where Redis has lost a tail.
return function()
  local tag, id, record, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
  local outbox = tag .. 'outbox'
  local found = redis.call('XRANGE', outbox, id, id)[1]
  if not found or found[2][2] ~= record then
    return 0
  end
  local meta = redis.call('HMGET', tag .. 'meta', 'epoch', 'full_at')
  local epoch, sequence = id:match('^(%d+)-(%d+)$')
  redis.call('XTRIM', outbox, 'MINID', id)
  if meta[1] == epoch and meta[2] ~= DEGRADED then
    redis.call('HSET', tag .. 'meta', 'full_at', string.format('%.0f', tonumber(sequence) + most))
  end
  return 1
end
