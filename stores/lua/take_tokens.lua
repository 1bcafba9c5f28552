-- Takes tokens from a bucket, or says when they will be there.
-- KEYS[1]  the bucket: its tokens, and the second of the server's clock at which it had them, as two doubles;
--          nothing where it is full
-- ARGV     how many, tokens per second, tokens at most
-- Returns the seconds to wait, as text: "0" where they were taken.

-- A caller that waits as long as it was told to must not be refused for the last bit of a double.
local ROUNDING = 0.000001
-- The longest that a double counts exactly, in milliseconds.
local LONGEST = 9007199254740992

local n, per_second, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local tokens, updated = burst, now
local kept = redis.call('GET', KEYS[1])
if kept and #kept == 16 then
  tokens, updated = struct.unpack('<dd', kept)
end
-- A clock that goes backwards fills nothing and freezes nothing: the bucket goes on from the earlier time.
tokens = math.min(burst, tokens + math.max(0, now - updated) * per_second)

local wait = '0'
local missing = n - tokens
if missing > ROUNDING then
  wait = string.format('%.17g', missing / per_second)
else
  tokens = math.max(0, -missing)
end

local until_full = math.min(math.ceil((burst - tokens) / per_second * 1000), LONGEST)
if until_full > 0 then
  redis.call('SET', KEYS[1], struct.pack('<dd', tokens, now), 'PX', string.format('%.0f', until_full))
elseif kept then
  redis.call('DEL', KEYS[1])
end
return wait
