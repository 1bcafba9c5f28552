-- ARGV[2]  how long the log is kept, in milliseconds
-- Returns epoch, head, open messages, meta's fields and values, ids and seqs, text; or nil.
local log = open_log()
if not log then
  return nil
end
touch(ARGV[2])
return {
  log.epoch, whole(log.head), log.open, redis.call('HGETALL', META),
  redis.call('ZRANGE', IDS, 0, -1, 'WITHSCORES'), redis.call('GET', TEXT) or ''
}
