-- What the scripts of a context's log share: it is put before each of them.
-- KEYS[1]  meta   hash: run, epoch, head, base, bytes (of the tail), ids, text, turns (how much of each there is), tick
--                 (batches so far), recorded, marks, last, open; and `p<call>`, the last progress of a call
-- KEYS[2]  tail   list of frames: the one of `base` + 1 first, without gap
-- KEYS[3]  ids    sorted set of the durable events' ids by seq
-- KEYS[4]  text   what was said in open messages: pieces "\255<t or r><message id>\254<words>", bytes that UTF-8 lacks
-- KEYS[5]  turns  hash: `t<turn>` its tick, fence, last writer and answer; `w<writer>` an answer; `k<n>` who wrote it
-- ARGV[1]  the run_id of the primary that the caller speaks to
local META, TAIL, IDS, TEXT, TURNS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local REMEMBERED_WRITERS = 16

-- The log, or nil where there is none, an earlier life of the server left it, or it lost a key (a server that evicts
-- takes any): such a log would give a seq twice.
local function open_log()
  local m = redis.call('HMGET', META, 'run', 'epoch', 'head', 'base', 'bytes', 'ids', 'text', 'turns', 'tick',
    'recorded', 'last', 'open')
  if m[1] ~= ARGV[1] then
    return nil
  end
  local log = {
    epoch = m[2], head = tonumber(m[3]), base = tonumber(m[4]), bytes = tonumber(m[5]), ids = tonumber(m[6]),
    text = tonumber(m[7]), turns = tonumber(m[8]), tick = tonumber(m[9]), recorded = tonumber(m[10]),
    last = m[11], open = m[12]
  }
  if redis.call('LLEN', TAIL) ~= log.head - log.base
    or redis.call('ZCARD', IDS) ~= log.ids
    or redis.call('STRLEN', TEXT) ~= log.text
    or redis.call('HLEN', TURNS) ~= log.turns + 2 * math.min(log.tick, REMEMBERED_WRITERS) then
    return nil
  end
  return log
end

local function whole(number)
  return string.format('%.0f', number)
end

local function keep(ttl)
  for i = 1, 5 do
    redis.call('PEXPIRE', KEYS[i], ttl)
  end
end

-- A log that is asked for is in use. Not each time: it is a write, which replicas and files repeat.
local function touch(ttl)
  if redis.call('PTTL', META) < tonumber(ttl) * 0.9 then
    keep(ttl)
  end
end
