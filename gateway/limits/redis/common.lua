-- The beginning of every script: the arithmetic of policies/limits/arithmetic.py, in doubles that are
-- always whole numbers below 2^53.
--
-- KEYS[1] hash: tally -> when it was charged last, then its counts, for each: kind, value, carry, at_ms,
-- holders, taken_ms (cmsgpack)
-- KEYS[2] hash: reservation -> lease end, state, holds                  (cmsgpack)
-- KEYS[3] sorted set: reservation -> when its lease ends, or when it is forgotten, ms
-- KEYS[4] hash: usage of a day (settle)
-- ARGV[1] a JSON array, ARGS below: clients pack one argument faster than many. ARGS[1]: how long a
-- reservation is remembered after the end of its lease, ms.
--
-- A tally has a count for each rule that it had of late: policies/limits/tally.py. Holders are the
-- remembered reservations that took from a count. While there is one the count is kept, even if it is
-- idle. A hold: bucket key, kind, amount, and when the counting began that it is a part of.
--
-- A reservation is RUNNING; or OVER: its lease has ended, and it can still be charged; or DONE: it is
-- settled, and remembered only so that its own call, if that comes later, takes nothing.
--
-- Rules: gateway/limits/rule_text.py. A kind is the part of a rule that its count depends on.

local TALLIES, RESERVATIONS, LEASES = KEYS[1], KEYS[2], KEYS[3]
local ARGS = cjson.decode(ARGV[1])
local LATE_MS = ARGS[1]
local DAY_MS = 86400000
local WINDOW_MS = { s = 1000, m = 60000, h = 3600000, d = DAY_MS, w = 7 * DAY_MS, M = 31 * DAY_MS }
local MONDAY_MS = 4 * DAY_MS -- the first one of Unix time
local RUNNING, OVER, DONE = 0, 1, 2
local EXPIRE_AT_ONCE = 1000
local SMALL = 64 -- hashes up to this are not searched for idle tallies
local LOOK_AT = 4
local FOREVER_MS = 1e12
local BACK_MS = 1000 -- largest step back of the clock after which a count waits for it
local MAX_LIMIT = 1e15
local MAX_COUNTS = 8
local KEEP_MS = DAY_MS -- an idle count is dropped when others have been used for so much longer
local FIELDS = 6 -- of a count

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

-- Start and end of the window that contains now. `starts`: of a time zone's windows, with ours second.
-- The third result is true if that is a guess, since the clocks differ by far.
local function window(letter, starts)
  local length = WINDOW_MS[letter]
  if not starts then
    if letter == 'M' then
      local start = month_start(now)
      return start, month_start(start + 31 * DAY_MS)
    end
    local start = now - math.fmod(now - (letter == 'w' and MONDAY_MS or 0), length)
    return start, start + length
  end
  if length < DAY_MS then
    local start = starts[2] + math.floor((now - starts[2]) / length) * length
    return start, start + length
  end
  for i = #starts, 1, -1 do
    if starts[i] <= now then
      local after = starts[i + 1] or starts[i] + length
      if after > now then return starts[i], after end
      return now - math.fmod(now - starts[i], length), now + length, true
    end
  end
  return starts[1], starts[2], true
end

-- The same for a time zone whose starts are not known: `start` is that of one of its windows. It is
-- right until the zone sets its clocks, and then until somebody asks for it.
local function next_window(letter, start)
  if letter == 'M' then
    local offset = start - month_start(start + 15 * DAY_MS)
    local first = month_start(now - offset)
    return first + offset, month_start(first + 31 * DAY_MS) + offset
  end
  local length = WINDOW_MS[letter]
  start = start + math.floor((now - start) / length) * length
  return start, start + length
end

local function numbers(text)
  local found = {}
  for word in string.gmatch(text, '%d+') do found[#found + 1] = tonumber(word) end
  return found
end

local rules = {} -- by text

-- A rule: kind, letter, limit and the rest of its numbers. Nobody changes it.
local function parse(text)
  local rule = rules[text]
  if rule then return rule end
  local limit, refill, period = string.match(text, '^t (%d+) (%d+) (%d+)$')
  if limit then
    rule = { kind = text, letter = 't', limit = tonumber(limit), refill = tonumber(refill),
      period = tonumber(period) }
  else
    local kind, most, rest = string.match(text, '^(%S+) (%d+) ?(.*)$')
    rule = { kind = kind, letter = string.sub(kind, 1, 1), limit = tonumber(most) }
    if rule.letter == 'l' then rule.idle = tonumber(string.sub(kind, 3)) end
    if rest ~= '' then rule.starts = numbers(rest) end
  end
  rules[text] = rule
  return rule
end

-- The rule of a stored count, as far as it depends on it. A window of a time zone that nobody asks
-- for has no starts.
local function rule_of(kind)
  if #kind == 1 then return { kind = kind, letter = kind } end
  if string.byte(kind) == 116 then return parse(kind) end -- t
  return parse(kind .. ' 0')
end

local function fresh(count)
  local rule = count.rule
  count.carry = 0
  if rule.letter == 't' then
    count.value, count.at = rule.limit, now
  elseif rule.letter == 'c' then
    count.value, count.at = 0, now
  elseif rule.letter == 'l' then
    count.value, count.carry, count.at = 0, now, now
  elseif rule.starts or not string.find(rule.kind, '@', 1, true) then
    count.value = 0
    count.at, count.carry = window(rule.letter, rule.starts)
  else
    count.value = 0
    count.at, count.carry = next_window(rule.letter, count.at)
  end
end

local function fill_up(count)
  if count.value >= count.rule.limit then
    count.value, count.carry = count.rule.limit, 0
  end
end

-- A window's carry is its end; a lifetime's, when counting started.
local function advance(count)
  local rule = count.rule
  if rule.letter == 't' then
    local elapsed = now - count.at
    if elapsed > 0 then
      local rest = math.fmod(elapsed, rule.period)
      local whole = (elapsed - rest) / rule.period * rule.refill
      if whole >= rule.limit - count.value then -- rounded or not, if whole is beyond 2^53
        count.value = rule.limit
      else
        local gained, carry = muldiv(rest, rule.refill, rule.period)
        carry = carry + count.carry
        if carry >= rule.period then gained, carry = gained + 1, carry - rule.period end
        count.value, count.carry = count.value + whole + gained, carry
      end
      count.at = now
    elseif elapsed < -BACK_MS then -- the clock was set back, or is that of another node
      count.at, count.changed = now, true
    end
    fill_up(count)
    if count.value == rule.limit then count.at = now end
  elseif rule.letter == 'l' then
    if count.value == 0 or now - count.at >= rule.idle then
      fresh(count)
    elseif count.at - now > BACK_MS then
      count.carry, count.at, count.changed = math.min(count.carry, now), now, true
    end
  elseif rule.letter ~= 'c' then
    if now >= count.carry then
      fresh(count)
    elseif count.at > now and (count.value == 0 or count.at - now > BACK_MS) then
      local value = count.value
      fresh(count)
      count.value, count.changed = value, true
    end
  end
end

local function idle(count)
  return count.value == (count.rule.letter == 't' and count.rule.limit or 0)
end

local function forgettable(count)
  return count.holders == 0 and idle(count)
end

local function available(count)
  if count.rule.letter == 't' then return count.value end
  return count.rule.limit - count.value
end

local function used(count)
  if count.rule.letter == 't' then return math.max(0, count.rule.limit - count.value) end
  return count.value
end

-- What was used at an earlier instant if nobody has taken or settled anything since: `used_at` in
-- policies/limits/arithmetic.py.
local function used_at(count, at)
  local amount, rule, ago = used(count), count.rule, count.at - at
  if amount == 0 or ago <= 0 or rule.letter ~= 't' then return amount end
  local part = math.fmod(ago, rule.period)
  local whole = (ago - part) / rule.period * rule.refill
  local refilled, rest = muldiv(part, rule.refill, rule.period)
  if rest > count.carry then refilled = refilled + 1 end
  return math.max(amount, math.min(amount + whole + refilled, MAX_LIMIT))
end

-- The counts that somebody needs. One of a rule that was only asked for is not written.
local function needed(counts)
  if #counts == 1 then
    if counts[1].new or forgettable(counts[1]) then return {} end
    return counts
  end
  local kept, all_idle, newest = {}, true, 0
  for _, count in ipairs(counts) do
    if not count.new then newest = math.max(newest, count.taken) end
  end
  for _, count in ipairs(counts) do
    local over = forgettable(count)
    if not over then all_idle = false end
    if not count.new and (not over or count.taken > newest - KEEP_MS) then kept[#kept + 1] = count end
  end
  if all_idle then return {} end
  while #kept > MAX_COUNTS do -- not the most, so that a rule that comes later begins with it
    local oldest, most
    for _, count in ipairs(kept) do
      if count.rule.letter ~= 'c' and (not most or used(count) > used(most)) then most = count end
    end
    for i, count in ipairs(kept) do
      if not count.present and count ~= most and count.rule.letter ~= 'c'
        and (not oldest or count.taken < kept[oldest].taken) then oldest = i end
    end
    if not oldest then break end
    table.remove(kept, oldest)
  end
  return kept
end

local function tally_of(key)
  return string.match(key, '^[^|]*|(.*)$') or key
end

local known = {} -- by tally: counts that were looked at, advanced to now

local function look(name)
  local tally = known[name]
  if tally then return tally end
  tally = { counts = {}, changed = false, charged = now }
  local packed = redis.call('HGET', TALLIES, name)
  if packed then
    local fields = cmsgpack.unpack(packed)
    tally.charged = fields[1]
    for i = 2, #fields, FIELDS do
      local count = { rule = rule_of(fields[i]), value = fields[i + 1], carry = fields[i + 2],
        at = fields[i + 3], holders = fields[i + 4], taken = fields[i + 5] }
      tally.counts[#tally.counts + 1] = count
      advance(count)
      if count.changed then tally.changed = true end
    end
    tally.counts = needed(tally.counts)
  end
  known[name] = tally
  return tally
end

local function find(tally, kind)
  for _, count in ipairs(tally.counts) do
    if count.rule.kind == kind then return count end
  end
end

local function same_unit(one, other) return (one.letter == 'c') == (other.letter == 'c') end

-- Reservations that hold the count `replaced` hold what has begun with it, too: `handed_over` in
-- policies/limits/tally.py.
local function hand_over(replaced, count)
  if replaced.holders == 0 then return end
  local letter, left = replaced.rule.letter, used(count)
  local ends = letter ~= 't' and letter ~= 'c'
  local began = count.rule.letter == 'l' and count.carry or count.at
  local since = letter == 'l' and replaced.carry or replaced.at
  local ids = redis.call('HKEYS', RESERVATIONS)
  table.sort(ids)
  for _, id in ipairs(ids) do
    if count.holders == replaced.holders then return end
    local lease_until, state, holds = cmsgpack.unpack(redis.call('HGET', RESERVATIONS, id))
    for _, hold in ipairs(holds) do
      if hold[2] == replaced.rule.kind and tally_of(hold[1]) == count.tally then
        local amount = 0
        if state == RUNNING and (hold[4] >= since or not ends) then
          amount = math.min(hold[3], left)
        end
        left = left - amount
        count.holders = count.holders + 1
        holds[#holds + 1] = { hold[1], count.rule.kind, amount, began }
        redis.call('HSET', RESERVATIONS, id, cmsgpack.pack(lease_until, state, holds))
        break
      end
    end
  end
end

-- The counts of a call's rules. `asked`: `{name=tally, rule=}` for each; they get their `count`. A rule
-- that is new to its tally begins with the most that any count that it replaces had at the last charge,
-- as if all of it had been used then.
local function ask(asked)
  for _, one in ipairs(asked) do
    local count = find(look(one.name), one.rule.kind)
    if count then
      count.rule = one.rule
      if one.rule.starts and count.at <= now then -- it may have gone on by `next_window`
        local start, stop, guessed = window(one.rule.letter, one.rule.starts)
        if not guessed then count.at, count.carry = start, stop end
      end
      count.present, one.count = true, count
    end
  end
  for _, one in ipairs(asked) do
    if not one.count then
      local tally, most, replaced = look(one.name), 0, nil
      local charged = math.min(tally.charged, now)
      for _, other in ipairs(tally.counts) do
        if not other.present and same_unit(other.rule, one.rule) then
          local amount = used_at(other, charged)
          if amount > most then most, replaced = amount, other end
        end
      end
      local count = { rule = one.rule, holders = 0, taken = now, present = true, tally = one.name,
        new = not replaced }
      fresh(count)
      if replaced then
        local letter = one.rule.letter
        if letter == 't' then
          count.value, count.at = one.rule.limit - math.min(most, one.rule.limit), charged
          advance(count)
        elseif letter == 'l' then
          if now - charged < one.rule.idle then
            count.value, count.carry, count.at = most, charged, charged
          end
        elseif letter == 'c' or charged >= count.at then
          count.value = most
        end
        hand_over(replaced, count)
        tally.changed = true
      end
      one.count = count
      tally.counts[#tally.counts + 1] = count
    end
  end
end

-- Take from a count, and return the hold.
local function take(name, count, key, amount)
  local rule = count.rule
  local began = rule.letter == 'l' and count.carry or count.at
  count.value = count.value + (rule.letter == 't' and -amount or amount)
  count.holders, count.new = count.holders + 1, false
  if count.present then count.taken = now end
  known[name].changed, known[name].charged = true, now
  return { key, rule.kind, amount, began }
end

-- `over`: the reservation no longer holds the count.
local function settle(hold, held, charge, over)
  local tally = look(tally_of(hold[1]))
  local count = find(tally, hold[2])
  if not count then return end -- it was one too many
  local letter = count.rule.letter
  if letter == 't' then
    count.value = count.value + held - charge
    fill_up(count)
  elseif letter == 'c' then
    count.value = math.max(0, count.value - held)
  else
    local change = charge - held
    if hold[4] < (letter == 'l' and count.carry or count.at) then change = math.max(0, change) end
    count.value = math.max(0, count.value + change)
  end
  if over then count.holders = math.max(0, count.holders - 1) end
  tally.changed = true
  if charge > 0 then tally.charged = now end
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
        for _, hold in ipairs(holds) do settle(hold, hold[3], 0, false) end
      end
      if state ~= DONE and lease_until + LATE_MS > now then
        forgotten = false
        redis.call('HSET', RESERVATIONS, id, cmsgpack.pack(lease_until, OVER, holds))
        redis.call('ZADD', LEASES, lease_until + LATE_MS, id)
      else
        for _, hold in ipairs(holds) do settle(hold, 0, 0, true) end
        redis.call('HDEL', RESERVATIONS, id)
      end
    end
    if forgotten then redis.call('ZREM', LEASES, id) end
  end
  return #due == EXPIRE_AT_ONCE
end

-- Roughly the longest time for which a count can matter from now; the keys live twice as long.
local function horizon(count)
  local rule = count.rule
  if rule.letter == 't' then return (rule.limit - count.value) / rule.refill * rule.period end
  if rule.letter == 'c' then return 0 end
  return rule.idle or WINDOW_MS[rule.letter]
end

local function pack(counts, charged)
  local fields = { charged }
  for _, count in ipairs(counts) do
    local n = #fields
    fields[n + 1], fields[n + 2], fields[n + 3] = count.rule.kind, count.value, count.carry
    fields[n + 4], fields[n + 5], fields[n + 6] = count.at, count.holders, count.taken
  end
  return cmsgpack.pack(fields)
end

-- Write what changed; it is kept for at least `need` ms.
local function save(need)
  for name, tally in pairs(known) do
    if tally.changed then
      local kept = needed(tally.counts)
      if #kept == 0 then
        redis.call('HDEL', TALLIES, name)
      else
        for _, count in ipairs(kept) do need = math.max(need, horizon(count)) end
        redis.call('HSET', TALLIES, name, pack(kept, tally.charged))
      end
    end
  end
  -- Reservations must not be forgotten before the counts to which they give back.
  local left = redis.call('PTTL', TALLIES)
  if left < math.min(need, FOREVER_MS / 2) then
    left = math.min(math.floor(2 * need) + 60000, FOREVER_MS)
    redis.call('PEXPIRE', TALLIES, left)
  end
  for _, key in ipairs({ RESERVATIONS, LEASES }) do
    if redis.call('PTTL', key) < left then redis.call('PEXPIRE', key, left + 60000) end
  end
end

-- Forget a few idle tallies, which are found at random, as Redis finds its own expired keys.
local function tidy()
  if redis.call('HLEN', TALLIES) <= SMALL then return end
  for _, name in ipairs(redis.call('HRANDFIELD', TALLIES, LOOK_AT)) do
    if not known[name] then
      local tally = look(name)
      if #needed(tally.counts) == 0 then tally.changed = true end
    end
  end
end
