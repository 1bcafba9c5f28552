-- ARGV[2]  how long the log is kept, in milliseconds
-- ARGV[3]  the epoch
-- ARGV[4]  the seq before the first that is wanted
-- ARGV[5]  how many bytes are enough
-- Returns frames in order, or nil where the log is of another epoch or does not reach back.
local PIECE = 64

local log = open_log()
if not log or log.epoch ~= ARGV[3] then
  return nil
end
touch(ARGV[2])
local after, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
if after < log.base or after > log.head then
  return nil
end
local frames, size = {}, 0
local from, length = after - log.base, log.head - log.base
while from < length do
  for _, frame in ipairs(redis.call('LRANGE', TAIL, from, from + PIECE - 1)) do
    frames[#frames + 1] = frame
    size = size + #frame
    if size > limit then
      return frames
    end
  end
  from = from + PIECE
end
return frames
