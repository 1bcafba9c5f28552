-- Begins a log over nothing, an older epoch, or what an earlier life of the server left.
-- ARGV[2]  the epoch
-- ARGV[3]  the seq before its first event
-- ARGV[4]  how long it is kept, in milliseconds
-- Returns 1, or 0 where a log of this epoch or a newer one stands.
local old = redis.call('HMGET', META, 'run', 'epoch')
if old[1] == ARGV[1] and tonumber(old[2]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('UNLINK', META, TAIL, IDS, TEXT, TURNS)
redis.call('HSET', META, 'run', ARGV[1], 'epoch', ARGV[2], 'head', ARGV[3], 'base', ARGV[3], 'recorded', ARGV[3],
  'bytes', 0, 'ids', 0, 'text', 0, 'turns', 0, 'tick', 0, 'last', '', 'open', '', 'marks', '')
keep(ARGV[4])
return 1
