-- Notes that the store has every seq up to one, and forgets ids that it has had for long.
-- ARGV[2]  the epoch
-- ARGV[3]  the seq
-- ARGV[4]  how long ids are kept after that, in seconds
local MARKS = 60

local log = open_log()
local seq, kept = tonumber(ARGV[3]), tonumber(ARGV[4])
if not log or log.epoch ~= ARGV[2] or seq <= log.recorded then
  return 0
end
-- Marks are the second until which, and the seq up to which, ids are kept. One stands for a sixtieth of the time.
local now = tonumber(redis.call('TIME')[1])
local until_ = now + kept
local packed = redis.call('HGET', META, 'marks')
local marks = packed ~= '' and cmsgpack.unpack(packed) or {}
if #marks > 0 and until_ <= marks[#marks - 1] then
  marks[#marks] = seq
else
  marks[#marks + 1] = until_ + kept / MARKS
  marks[#marks + 1] = seq
end
local forget = 0
while #marks > 0 and marks[1] <= now do
  forget = table.remove(marks, 2)
  table.remove(marks, 1)
end
if forget > 0 then
  redis.call('ZREMRANGEBYSCORE', IDS, '-inf', whole(forget))
end
redis.call('HSET', META, 'recorded', whole(seq), 'ids', redis.call('ZCARD', IDS),
  'marks', #marks > 0 and cmsgpack.pack(marks) or '')
return 1
