-- KEYS[1]  sorted set of instances by the millisecond at which their heartbeat is over
-- Returns the instances whose heartbeat is not over by the server's clock.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGE', KEYS[1], '(' .. string.format('%.0f', now), '+inf', 'BYSCORE')
