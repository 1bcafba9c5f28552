-- Reads a thread, and keeps it for longer.
-- KEYS[1]  the thread: a list of its state, what is about it, and its rows, oldest first
-- ARGV     milliseconds to keep it
-- Returns the whole list, empty where there is none.

local kept = redis.call('LRANGE', KEYS[1], 0, -1)
if #kept > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return kept
