-- An instance lives, until its time is over by the server's clock.
-- KEYS[1]  sorted set of instances by the millisecond at which their heartbeat is over
-- ARGV[2]  the instance
-- ARGV[3]  for how many milliseconds
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[3])), ARGV[2])
-- Without instances the set goes; longer than the longest heartbeat, whoever's it is.
if redis.call('PTTL', KEYS[1]) < 2 * tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[3]))
end
return 1
