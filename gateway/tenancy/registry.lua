-- KEYS: entries (hash of KIND:ID to "VERSION CONTENT"), order (sorted set of KIND:ID by sequence),
-- epoch. ARGV[1] says what is asked:
--   'write' or 'merge', an epoch for an empty registry, then KIND:ID, version, content in turn.
--     Returns '' or the KIND:ID that is of another version than expected.
--   'changes', epoch and sequence of the reader's place, most entries.
--     Returns epoch, sequence to read on from, restarted (0, 1), KIND:IDs, their values.
-- Sequences are microseconds of the server's clock, always rising, so that they go on rising when a
-- replica takes over that lacks the last writes. They are below 2^53, which Lua counts exactly.

local entries, order, epoch = KEYS[1], KEYS[2], KEYS[3]

local function text(number)
  return string.format('%.0f', number)
end

local function head()
  return tonumber(redis.call('ZREVRANGE', order, 0, 0, 'WITHSCORES')[2] or '0')
end

if ARGV[1] == 'changes' then
  local now = redis.call('GET', epoch) or ''
  local since, restarted = ARGV[3], 0
  if ARGV[2] ~= now or tonumber(since) > head() then
    since, restarted = '0', 1
  end
  local found = redis.call('ZRANGEBYSCORE', order, '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
  local names = {}
  for i = 1, #found, 2 do
    names[#names + 1] = found[i]
    since = found[i + 1]
  end
  local values = {}
  if #names > 0 then
    values = redis.call('HMGET', entries, unpack(names))
  end
  return {now, text(tonumber(since)), restarted, names, values}
end

local merge, wanted, versions = ARGV[1] == 'merge', {}, {}
for i = 3, #ARGV, 3 do
  local name, given = ARGV[i], tonumber(ARGV[i + 1])
  if not versions[name] then
    local stored = redis.call('HGET', entries, name)
    versions[name] = stored and tonumber(string.match(stored, '^%d+')) or 0
  end
  if given == versions[name] + 1 or merge and given > versions[name] then
    versions[name] = given
    wanted[#wanted + 1] = i
  elseif not merge then
    return name
  end
end
if #wanted == 0 then return '' end
redis.call('SET', epoch, ARGV[2], 'NX')
local clock = redis.call('TIME')
local sequence = math.max(head() + 1, clock[1] * 1000000 + clock[2])
for place, i in ipairs(wanted) do
  redis.call('HSET', entries, ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2])
  redis.call('ZADD', order, text(sequence + place), ARGV[i])
end
return ''
