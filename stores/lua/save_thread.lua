-- Writes a thread in place of what was there.
-- KEYS[1]  the thread: a list of its state, what is about it, and its rows, oldest first
-- ARGV     milliseconds to keep it, then the elements of the list

redis.call('DEL', KEYS[1])
for i = 2, #ARGV do
  redis.call('RPUSH', KEYS[1], ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
