-- The beginning of every script: the arithmetic of policies/limits/arithmetic.py, in doubles that are
-- always whole numbers below 2^53.
--
-- KEYS[1] hash: bucket key -> rule, value, carry, at_ms, holders, epoch (cmsgpack)
-- KEYS[2] hash: reservation -> lease end, state, holds                  (cmsgpack)
-- KEYS[3] sorted set: reservation -> when its lease ends, or when it is forgotten, ms
-- KEYS[4] hash: usage of a day (settle)
-- ARGV[1] a JSON array, ARGS below: clients pack one argument faster than many. ARGS[1]: how long a
-- reservation is remembered after the end of its lease, ms.
--
-- Holders are the remembered reservations that took from the bucket. While there is one the bucket
-- is kept, even if it is full: the reservation is settled under the rule that the bucket has then.
-- The epoch grows when a rule of another kind makes the bucket start afresh: amounts that were held
-- before are no longer part of it.
--
-- A reservation is RUNNING; or OVER: its lease has ended, and it can still be charged; or DONE: it is
-- settled, and remembered only so that its own call, if that comes later, takes nothing.
--
-- Rules: "t capacity refill period_ms"; "s|m|h|d|M limit" (a window); "c limit" (concurrency).

local BUCKETS, RESERVATIONS, LEASES = KEYS[1], KEYS[2], KEYS[3]
local ARGS = cjson.decode(ARGV[1])
local LATE_MS = ARGS[1]
local DAY_MS = 86400000
local WINDOW_MS = { s = 1000, m = 60000, h = 3600000, d = DAY_MS }
local RUNNING, OVER, DONE = 0, 1, 2
local EXPIRE_AT_ONCE = 1000
local SMALL = 64 -- hashes up to this are not searched for idle buckets
local LOOK_AT = 4
local FOREVER_MS = 1e12
local BACK_MS = 1000 -- largest step back of the clock after which a bucket waits for it

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- a * b / p as quotient and rest, for a < p < 2^32 and b < 2^53: long division in digits of 20 bits.
local function muldiv(a, b, p)
  local quotient, rest = 0, 0
  for shift = 40, 0, -20 do
    local digit = math.floor(b / 2 ^ shift) % 2 ^ 20
    local part = rest * 2 ^ 20 + a * digit
    rest = math.fmod(part, p)
    quotient = quotient * 2 ^ 20 + (part - rest) / p
  end
  return quotient, rest
end

-- Days from civil and back, after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
local function month_start(at)
  local days = math.floor(at / DAY_MS)
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local day_of_era = shifted - era * 146097
  local year = math.floor((day_of_era - math.floor(day_of_era / 1460)
    + math.floor(day_of_era / 36524) - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * day_of_year + 2) / 153)
  return (days - (day_of_year - math.floor((153 * month + 2) / 5))) * DAY_MS
end

local function window_start(kind, at)
  if kind == 'M' then return month_start(at) end
  return at - math.fmod(at, WINDOW_MS[kind])
end

local function parse(text)
  local kind, limit, refill, period = string.match(text, '^(%a) (%d+) ?(%d*) ?(%d*)$')
  return { text = text, kind = kind, limit = tonumber(limit), refill = tonumber(refill),
    period = tonumber(period) }
end

local function fresh(bucket)
  local rule = bucket.rule
  bucket.carry = 0
  if rule.kind == 't' then
    bucket.value, bucket.at = rule.limit, now
  elseif rule.kind == 'c' then
    bucket.value, bucket.at = 0, now
  else
    bucket.value, bucket.at = 0, window_start(rule.kind, now)
  end
end

local function fill_up(bucket)
  if bucket.value >= bucket.rule.limit then
    bucket.value, bucket.carry = bucket.rule.limit, 0
  end
end

local function advance(bucket)
  local rule = bucket.rule
  if rule.kind == 't' then
    local elapsed = now - bucket.at
    if elapsed > 0 then
      local rest = math.fmod(elapsed, rule.period)
      local whole = (elapsed - rest) / rule.period * rule.refill
      if whole >= rule.limit - bucket.value then -- rounded or not, if whole is beyond 2^53
        bucket.value = rule.limit
      else
        local gained, carry = muldiv(rest, rule.refill, rule.period)
        carry = carry + bucket.carry
        if carry >= rule.period then gained, carry = gained + 1, carry - rule.period end
        bucket.value, bucket.carry = bucket.value + whole + gained, carry
      end
      bucket.at = now
    elseif elapsed < -BACK_MS then -- the clock was set back, or is that of another node
      bucket.at, bucket.changed = now, true
    end
    fill_up(bucket)
    if bucket.value == rule.limit then bucket.at = now end
  elseif rule.kind ~= 'c' then
    local start = window_start(rule.kind, now)
    if start > bucket.at then
      fresh(bucket)
    elseif bucket.at > now and (bucket.value == 0 or bucket.at - now > BACK_MS) then
      bucket.at, bucket.changed = start, true
    end
  end
end

local function idle(bucket)
  return bucket.value == (bucket.rule.kind == 't' and bucket.rule.limit or 0)
end

local function forgettable(bucket)
  return bucket.holders == 0 and idle(bucket)
end

local function available(bucket)
  if bucket.rule.kind == 't' then return bucket.value end
  return bucket.rule.limit - bucket.value
end

local known = {} -- by key: buckets looked at, advanced to now

-- The bucket under the rule that it has; `text` is its rule if it is not kept.
local function look(key, text)
  local bucket = known[key]
  if bucket then return bucket end
  bucket = { key = key, changed = false, holders = 0, epoch = 0 }
  local packed = redis.call('HGET', BUCKETS, key)
  if packed then
    local stored
    stored, bucket.value, bucket.carry, bucket.at, bucket.holders, bucket.epoch =
      cmsgpack.unpack(packed)
    bucket.rule = parse(stored)
    advance(bucket)
  else
    bucket.rule = parse(text)
    fresh(bucket)
  end
  known[key] = bucket
  return bucket
end

-- The bucket under the rule `text`, from now on.
local function look_under(key, text)
  local bucket = look(key, text)
  if bucket.rule.text ~= text then
    local old, was_idle = bucket.rule, idle(bucket)
    bucket.rule = parse(text)
    if old.kind ~= bucket.rule.kind then bucket.epoch = bucket.epoch + 1 end
    if was_idle or old.kind ~= bucket.rule.kind then
      fresh(bucket)
    elseif bucket.rule.kind == 't' then
      bucket.carry = 0
      fill_up(bucket)
    end
    bucket.changed = true
  end
  return bucket
end

local function settle(hold, held, charge)
  local bucket = look(hold.key, hold.rule)
  local kind = bucket.rule.kind
  if bucket.epoch ~= hold.epoch then held = 0 end
  if kind == 't' then
    bucket.value = bucket.value + held - charge
    fill_up(bucket)
  elseif kind == 'c' then
    bucket.value = math.max(0, bucket.value - held)
  else
    local change = charge - held
    if hold.at < bucket.at then change = math.max(0, change) end
    bucket.value = math.max(0, bucket.value + change)
  end
  bucket.changed = true
end

-- The reservation no longer holds the bucket.
local function let_go(hold)
  local bucket = look(hold.key, hold.rule)
  bucket.holders = math.max(0, bucket.holders - 1)
  bucket.changed = true
end

-- Give back what reservations hold whose leases have ended, and forget those whose leases ended long
-- ago. Returns whether there may be more of them: one call must not block Redis for long.
local function expire()
  local due = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, EXPIRE_AT_ONCE)
  for _, id in ipairs(due) do
    local packed = redis.call('HGET', RESERVATIONS, id)
    local forgotten = true
    if packed then
      local lease_until, state, holds = cmsgpack.unpack(packed)
      if state == RUNNING then
        for _, hold in ipairs(holds) do settle(hold, hold.amount, 0) end
      end
      if state ~= DONE and lease_until + LATE_MS > now then
        forgotten = false
        redis.call('HSET', RESERVATIONS, id, cmsgpack.pack(lease_until, OVER, holds))
        redis.call('ZADD', LEASES, lease_until + LATE_MS, id)
      else
        for _, hold in ipairs(holds) do let_go(hold) end
        redis.call('HDEL', RESERVATIONS, id)
      end
    end
    if forgotten then redis.call('ZREM', LEASES, id) end
  end
  return #due == EXPIRE_AT_ONCE
end

-- Roughly the longest time for which a bucket can matter from now; the keys live twice as long.
local function horizon(bucket)
  local rule = bucket.rule
  if rule.kind == 't' then return (rule.limit - bucket.value) / rule.refill * rule.period end
  if rule.kind == 'c' then return 0 end
  return WINDOW_MS[rule.kind] or 31 * DAY_MS
end

-- Write what changed; it is kept for at least `need` ms.
local function save(need)
  for key, bucket in pairs(known) do
    if bucket.changed and forgettable(bucket) then
      redis.call('HDEL', BUCKETS, key)
    elseif bucket.changed then
      need = math.max(need, horizon(bucket))
      redis.call('HSET', BUCKETS, key,
        cmsgpack.pack(bucket.rule.text, bucket.value, bucket.carry, bucket.at, bucket.holders,
          bucket.epoch))
    end
  end
  -- Reservations must not be forgotten before the buckets to which they give back.
  local left = redis.call('PTTL', BUCKETS)
  if left < math.min(need, FOREVER_MS / 2) then
    left = math.min(math.floor(2 * need) + 60000, FOREVER_MS)
    redis.call('PEXPIRE', BUCKETS, left)
  end
  for _, key in ipairs({ RESERVATIONS, LEASES }) do
    if redis.call('PTTL', key) < left then redis.call('PEXPIRE', key, left + 60000) end
  end
end

-- Forget a few idle buckets, which are found at random, as Redis finds its own expired keys.
local function tidy()
  if redis.call('HLEN', BUCKETS) <= SMALL then return end
  for _, key in ipairs(redis.call('HRANDFIELD', BUCKETS, LOOK_AT)) do
    if not known[key] then
      local bucket = look(key)
      if forgettable(bucket) then bucket.changed = true end
    end
  end
end
