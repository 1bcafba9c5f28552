-- Appends a batch of events, and publishes it.
-- ARGV[2]  the epoch
-- ARGV[3]  the writer
-- ARGV[4]  the turn, or '' where the batch is no turn's
-- ARGV[5]  its fence
-- ARGV[6]  how long the log is kept, in milliseconds
-- ARGV[7]  how many bytes the tail may have
-- ARGV[8]  the channel
-- ARGV[9…] for each event: the durable event's id or '', its JSON without the last brace, and what it does to the fold:
--          '-' nothing | 'd' <t or r><message> text | 's' message turn model attempt | 'm' message, which is closed |
--          'p' call progress | 'r' call, which is answered | 'e' turn, which ends
-- Returns '=' and the seqs of the durable events in order, 'E' where the epoch is over, 'S' where the fence is stale.
local REMEMBERED_TURNS, SPARE_TURNS = 1024, 64
local AT_ONCE = 100

local log = open_log()
if not log or log.epoch ~= ARGV[2] then
  return 'E'
end

local no_tail, no_ids, no_text = log.head == log.base, log.ids == 0, log.text == 0
local writer, turn, fence = ARGV[3], ARGV[4], tonumber(ARGV[5])
local slot = 'k' .. log.tick % REMEMBERED_WRITERS
local known = redis.call('HMGET', TURNS, 'w' .. writer, slot, 't' .. turn)
if known[1] then
  return known[1]
end
if turn ~= '' and known[3] then
  -- A turn has one batch on its way: whatever others wrote since, it is answered when it comes again.
  local last = cmsgpack.unpack(known[3])
  if last[3] == writer then
    return last[4]
  end
  if fence < last[2] then
    return 'S'
  end
end

-- The text of open messages: pieces are gathered, and written as one.
local open = log.open ~= '' and cmsgpack.unpack(log.open) or {}
local pieces = {}

local function place(message)
  for i, opened in ipairs(open) do
    if opened[1] == message then
      return i
    end
  end
  return nil
end

local function write_text()
  if #pieces > 0 then
    log.text = redis.call('APPEND', TEXT, table.concat(pieces))
    pieces = {}
  end
end

local function forget_text(message)
  write_text()
  local kept = {}
  if #open > 1 and log.text > 0 then
    for name, words in string.gmatch(redis.call('GET', TEXT), '\255([^\254]*)\254([^\255]*)') do
      if string.sub(name, 2) ~= message then
        kept[#kept + 1] = '\255' .. name .. '\254' .. words
      end
    end
  end
  redis.call('DEL', TEXT)
  no_text = true
  log.text, log.last = 0, ''
  pieces = kept
end

local function close(at)
  forget_text(open[at][1])
  table.remove(open, at)
  log.open = nil
end

local at = 9
local folds = {
  ['-'] = function() end,
  d = function()
    local name, words = ARGV[at], ARGV[at + 1]
    at = at + 2
    if not place(string.sub(name, 2)) then
      return
    end
    if name ~= log.last then
      pieces[#pieces + 1] = '\255' .. name .. '\254'
      log.last = name
    end
    pieces[#pieces + 1] = words
  end,
  s = function()
    local opened = { ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3] }
    at = at + 4
    local before = place(opened[1])
    if before then
      forget_text(opened[1])
    end
    open[before or #open + 1] = opened
    log.open = nil
  end,
  m = function()
    local opened = place(ARGV[at])
    at = at + 1
    if opened then
      close(opened)
    end
  end,
  p = function()
    redis.call('HSET', META, 'p' .. ARGV[at], ARGV[at + 1])
    at = at + 2
  end,
  r = function()
    redis.call('HDEL', META, 'p' .. ARGV[at])
    at = at + 1
  end,
  e = function()
    for i = #open, 1, -1 do
      if open[i][2] == ARGV[at] then
        close(i)
      end
    end
    at = at + 1
  end
}
local SKIP = { ['-'] = 0, d = 2, s = 4, m = 1, p = 2, r = 1, e = 1 }

local frames, seqs = {}, {}
local first = log.head + 1
while at <= #ARGV do
  local id, body, what = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  local seq = id ~= '' and redis.call('ZSCORE', IDS, id)
  if seq then
    seqs[#seqs + 1] = whole(tonumber(seq))
    at = at + SKIP[what]
  else
    log.head = log.head + 1
    local given = whole(log.head)
    if id ~= '' then
      redis.call('ZADD', IDS, given, id)
      log.ids = log.ids + 1
      seqs[#seqs + 1] = given
    end
    local frame = body .. ',"seq":' .. given .. '}'
    frames[#frames + 1] = frame
    log.bytes = log.bytes + #frame
    folds[what]()
  end
end
write_text()

for i = 1, #frames, AT_ONCE do
  redis.call('RPUSH', TAIL, unpack(frames, i, math.min(i + AT_ONCE - 1, #frames)))
end
while log.bytes > tonumber(ARGV[7]) and log.base + 1 < log.head do
  log.bytes = log.bytes - #redis.call('LPOP', TAIL)
  log.base = log.base + 1
end

local answer = '=' .. table.concat(seqs, ',')
if known[2] then
  redis.call('HDEL', TURNS, 'w' .. known[2])
end
log.tick = log.tick + 1
if turn == '' then
  redis.call('HSET', TURNS, 'w' .. writer, answer, slot, writer)
else
  redis.call('HSET', TURNS, 'w' .. writer, answer, slot, writer,
    't' .. turn, cmsgpack.pack({ log.tick, fence, writer, answer }))
  if not known[3] then
    log.turns = log.turns + 1
  end
end
if log.turns > REMEMBERED_TURNS + SPARE_TURNS then
  local all, turns = redis.call('HGETALL', TURNS), {}
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == 't' then
      turns[#turns + 1] = { all[i], cmsgpack.unpack(all[i + 1])[1] }
    end
  end
  table.sort(turns, function(one, other) return one[2] < other[2] end)
  for i = 1, #turns - REMEMBERED_TURNS do
    redis.call('HDEL', TURNS, turns[i][1])
  end
  log.turns = REMEMBERED_TURNS
end

redis.call('HSET', META, 'head', whole(log.head), 'base', whole(log.base), 'bytes', whole(log.bytes),
  'ids', log.ids, 'text', log.text, 'turns', log.turns, 'tick', whole(log.tick), 'last', log.last,
  'open', log.open or (#open > 0 and cmsgpack.pack(open) or ''))
-- A new key has no end yet; all of them have the same one.
if log.tick == 1 or (no_tail and log.head > log.base) or (no_ids and log.ids > 0) or (no_text and log.text > 0) then
  keep(ARGV[6])
else
  touch(ARGV[6])
end
if #frames > 0 then
  redis.call('SPUBLISH', ARGV[8], log.epoch .. ' ' .. whole(first) .. '\n' .. table.concat(frames, '\n'))
end
return answer
