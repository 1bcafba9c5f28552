-- ARGV[2]  how long the log is kept, in milliseconds
-- ARGV[3]  the epoch
-- ARGV[4]  the highest seq that is wanted
-- Returns ids and seqs of durable events that were not recorded, or nil where the log is of another epoch.
local log = open_log()
if not log or log.epoch ~= ARGV[3] then
  return nil
end
touch(ARGV[2])
return redis.call('ZRANGE', IDS, '(' .. whole(log.recorded), ARGV[4], 'BYSCORE', 'WITHSCORES')
