-- Append one batch of messages of one partition: to each channel's history, then once to the partition's log.
--
-- KEYS  1 log, 2 the batch's saved reply, 3 the sorted set of channels, then a channel's hash and history for each channel,
--       then the idempotency keys that messages refer to by their place in KEYS.
-- ARGV  1 history length, 2 log length, 3 idempotency ms, 4 saved reply ms, 5 epoch for a channel that needs a new one,
--       6 channels there may be (0: any number, -1: none is made here), 7 number of channels of this batch,
--       8 the Pub/Sub name on which nodes hear of a channel that is new,
--       then for each channel: id, epoch and offset the node has seen;
--       then for each message: channel number, idempotency key's place (0: none), store (1, or 0: show only),
--       user, client, data.
-- Reply: one line a message: "<offset> <ms> <epoch>", with " dup" behind when the key was known already,
--       or "! <what went wrong>". Nothing is written before everything was read; after the first write nothing raises.

local saved = redis.call('GET', KEYS[2])
if saved then return saved end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return redis.error_reply('FULL the log of this partition holds ' .. ARGV[2] .. ' entries that a consumer group has not taken')
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ms = string.format('%.0f', now)
local limit, made = tonumber(ARGV[6]), 0

-- Why a channel that is missing is not made; nil: it is.
local function refusal(id)
  if limit < 0 then return 'UNKNOWN' end
  if limit == 0 or redis.call('ZSCORE', KEYS[3], id) then return nil end
  made = made + 1
  if redis.call('ZCARD', KEYS[3]) + made > limit then return 'LIMIT' end
end

local count = tonumber(ARGV[7])
local channels, arg = {}, 9
for i = 1, count do
  local hash = redis.pcall('HMGET', KEYS[2 + 2 * i], 'epoch', 'offset', 'created_at')
  local channel = {id = ARGV[arg], hash = KEYS[2 + 2 * i], history = KEYS[3 + 2 * i], ms = ms}
  if hash.err then
    channel.broken = hash.err
  elseif hash[1] then
    channel.known, channel.epoch, channel.offset = hash[1], hash[1], tonumber(hash[2]) or 0
    local began = tonumber(hash[3]) or 0
    if began > now then channel.ms = string.format('%.0f', began) end -- the clock went back: nothing is older than its channel
    local seen = tonumber(ARGV[arg + 2])
    if ARGV[arg + 1] == channel.epoch and seen > channel.offset then -- Redis came back older than what was shown
      channel.epoch, channel.offset = ARGV[5], seen
    end
  else
    channel.broken = refusal(channel.id)
    channel.epoch, channel.offset, channel.new = ARGV[5], 0, true
  end
  channels[i], arg = channel, arg + 3
end

local function store(channel, user, client, data)
  local place
  local function add()
    place = string.format('%.0f', channel.offset + 1)
    return redis.pcall('XADD', channel.history, 'MAXLEN', '~', ARGV[1],
      place .. '-' .. channel.ms, 'user', user, 'client', client, 'data', data)
  end
  local id = add()
  if type(id) == 'table' and id.err and string.find(id.err, 'equal or smaller', 1, true) then
    -- The hash is behind its own stream (lost or restored alone): go on above it, in a new epoch.
    local last = redis.call('XREVRANGE', channel.history, '+', '-', 'COUNT', 1)[1][1]
    channel.epoch, channel.offset = ARGV[5], tonumber(string.match(last, '^%d+'))
    id = add()
  end
  if type(id) == 'table' and id.err then return nil, id.err end
  channel.offset, channel.place = channel.offset + 1, place
  return id
end

-- A key outlives its channel: what it was given before the channel was deleted and made again is in no stream.
local function is_here(known, channel)
  local at, epoch = string.match(known, ' (%d+) (%S+)')
  if epoch == channel.epoch then return true end
  return not channel.new and tonumber(at) >= tonumber(redis.call('HGET', channel.hash, 'created_at') or 0)
end

local replies, log = {}, {}
while ARGV[arg] do
  local channel, key = channels[tonumber(ARGV[arg])], tonumber(ARGV[arg + 1])
  local user, client, data = ARGV[arg + 3], ARGV[arg + 4], ARGV[arg + 5]
  local reply, id, err
  if channel.broken then
    reply = '! ' .. channel.broken
  elseif ARGV[arg + 2] == '0' then
    id, reply = '-', '0 ' .. ms .. ' -'
    log[#log + 1] = channel.id
    log[#log + 1] = '- - ' .. user .. ' ' .. client .. ' ' .. data
  else
    local known = key > 0 and redis.pcall('GET', KEYS[key])
    if type(known) == 'string' and is_here(known, channel) then
      reply = known .. ' dup'
    else
      id, err = store(channel, user, client, data)
      if err and #log == 0 and (string.find(err, '^OOM') or string.find(err, '^READONLY')) then
        return redis.error_reply(err)
      end
      if err then
        reply = '! ' .. err
      else
        reply = channel.place .. ' ' .. channel.ms .. ' ' .. channel.epoch
        log[#log + 1] = channel.id
        log[#log + 1] = id .. ' ' .. channel.epoch .. ' ' .. user .. ' ' .. client .. ' ' .. data
        if key > 0 then redis.pcall('SET', KEYS[key], reply, 'PX', ARGV[3]) end
      end
    end
  end
  replies[#replies + 1], arg = reply, arg + 6
end

for i = 1, count do
  local channel = channels[i]
  if channel.place and channel.known == channel.epoch then
    redis.pcall('HSET', channel.hash, 'offset', channel.place)
  elseif channel.place then
    redis.pcall('HSET', channel.hash, 'epoch', channel.epoch, 'offset', channel.place)
    if channel.new then
      redis.pcall('HSET', channel.hash, 'id', channel.id, 'name', channel.id, 'created_at', ms)
      redis.pcall('ZADD', KEYS[3], 0, channel.id)
      redis.pcall('PUBLISH', ARGV[8], 'policy ' .. channel.id)
    end
  end
end
if #log > 0 then
  local logged = redis.pcall('XADD', KEYS[1], '*', unpack(log))
  if type(logged) == 'table' and logged.err then return redis.error_reply(logged.err) end
end
local answer = table.concat(replies, '\n')
redis.pcall('SET', KEYS[2], answer, 'PX', ARGV[4])
return answer
