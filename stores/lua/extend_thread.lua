-- Adds rows to a thread that is whole up to a given order, and drops the oldest beyond its bound.
-- KEYS[1]  the thread: a list of its state ("<born> <newest> <bytes of rows> <more>"), what is about it, and its rows,
--          oldest first. It is one key, so that a server which is short of memory takes away all of it or nothing.
-- ARGV     born, the order up to which it must be whole, the order up to which it will be, bytes at most, milliseconds
--          to keep it, then the rows
-- Returns 1, or 0 where nothing was added; what can't be kept within the bound is gone.

local key, limit = KEYS[1], tonumber(ARGV[4])

-- Orders are compared as text, which no size of theirs makes inexact.
local state = redis.call('LINDEX', key, 0)
if not state then
  return 0
end
local born, newest, bytes, more = string.match(state, '^(%S+) (%S+) (%d+) ([01])$')
if born ~= ARGV[1] or newest ~= ARGV[2] then
  return 0
end

local about = redis.call('LPOP', key, 2)[2]
for i = 6, #ARGV do
  redis.call('RPUSH', key, ARGV[i])
  bytes = bytes + #ARGV[i]
end

local trimmed = false
while bytes + #about > limit do
  local oldest = redis.call('LPOP', key)
  if not oldest then
    return 0
  end
  bytes = bytes - #oldest
  trimmed = true
end
if trimmed then
  if redis.call('EXISTS', key) == 0 then
    return 0
  end
  more = '1'
end

state = string.format('%s %s %.0f %s', born, ARGV[3], bytes, more)
redis.call('LPUSH', key, about, state)
redis.call('PEXPIRE', key, ARGV[5])
return 1
