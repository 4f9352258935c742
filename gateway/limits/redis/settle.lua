-- ARGS: late_ms, reservation, remember_ms (0: forget it at once), number of charges, then for each:
-- bucket key, amount; then, if there is a KEYS[4]: how long usage is kept (s), the largest number of
-- rows of a day, the row, the row to use if it would be one too many (the same: never), and the
-- amounts to add to METRICS.
-- KEYS[4] hash: metric and row -> sum; ROWS -> number of rows that count towards the largest number
-- Returns 1; 2 when the usage could not be counted in full; 3 when it is the first of its row; or 0
-- when the reservation is not known (any more).

local METRICS = { 'n', 'i', 'h', 'o', 'c' }
local ROWS = '#'
local MOST = '9223372036854775807'

local id, remember_ms, charges = ARGS[2], ARGS[3], {}
local last = 4 + 2 * ARGS[4]
for i = 5, last, 2 do charges[ARGS[i]] = ARGS[i + 1] end

expire()
local packed = redis.call('HGET', RESERVATIONS, id)
local state, holds = DONE, {}
if packed then
  local _
  _, state, holds = cmsgpack.unpack(packed)
end
if remember_ms > 0 then
  redis.call('HSET', RESERVATIONS, id, cmsgpack.pack(now + remember_ms, DONE, {}))
  redis.call('ZADD', LEASES, now + remember_ms, id)
elseif state ~= DONE then
  redis.call('HDEL', RESERVATIONS, id)
  redis.call('ZREM', LEASES, id)
end
if state == DONE then
  save(remember_ms)
  return 0
end
local by_tally -- for buckets that are not named here, because they were reserved under other rules
local function charge_of(key)
  if charges[key] then return charges[key] end
  if not by_tally then
    by_tally = {}
    for other, charge in pairs(charges) do
      local name = tally_of(other)
      by_tally[name] = math.max(by_tally[name] or 0, charge)
    end
  end
  return by_tally[tally_of(key)] or 0
end
for _, hold in ipairs(holds) do
  settle(hold, state == RUNNING and hold[3] or 0, charge_of(hold[1]), true)
end
save(remember_ms)
-- Nothing may fail before the buckets are written. A sum that would not fit becomes MOST.
local counted, first = true, false
local function book()
  local keep_s, most, whose, others = ARGS[last + 1], ARGS[last + 2], ARGS[last + 3], ARGS[last + 4]
  if whose ~= others and redis.call('HEXISTS', KEYS[4], 'n' .. whose) == 0 then
    if tonumber(redis.call('HGET', KEYS[4], ROWS) or 0) >= most then
      whose = others
    else
      redis.call('HINCRBY', KEYS[4], ROWS, 1)
    end
  end
  for i, metric in ipairs(METRICS) do
    local amount = ARGS[last + 4 + i]
    if amount ~= 0 or metric == 'n' then
      local sum = redis.pcall('HINCRBY', KEYS[4], metric .. whose, amount)
      if type(sum) == 'table' then
        counted = false
        redis.call('HSET', KEYS[4], metric .. whose, MOST)
      elseif metric == 'n' then
        first = sum == amount
      end
    end
  end
  redis.call('EXPIRE', KEYS[4], keep_s)
end
if KEYS[4] and not pcall(book) then counted = false end
return counted and (first and 3 or 1) or 2
