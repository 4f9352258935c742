-- ARGS: late_ms, reservation, lease_ms, forced (1: whatever is left), then for each take: bucket key,
-- rule, shadow (1), amount.
-- Returns {granted, now_ms, then for each take value, carry, at_ms as found}, or {} when the
-- reservation is known. granted: 1, 0, or 2: denied, while leases have ended that this call was too
-- short to give back; ask again.

local id, lease_ms, forced = ARGS[2], ARGS[3], ARGS[4] == 1
local granted = 1
local holds, reply, asked = {}, { 1, now }, {}

local more = expire()
if redis.call('HEXISTS', RESERVATIONS, id) == 1 then
  save(0)
  return {}
end
for i = 5, #ARGS, 4 do
  asked[#asked + 1] = { name = tally_of(ARGS[i]), key = ARGS[i], rule = parse(ARGS[i + 1]),
    shadow = ARGS[i + 2] == 1, amount = ARGS[i + 3] }
end
ask(asked)
for _, one in ipairs(asked) do
  local count = one.count
  if one.rule.letter == 'l' and count.value > 0 then -- whatever the answer is, somebody asked
    count.at = math.max(count.at, now)
    known[one.name].changed = true
  end
  one.fits = available(count) >= one.amount
  if not one.fits and not one.shadow and not forced then granted = 0 end
  reply[#reply + 1] = count.value
  reply[#reply + 1] = count.carry
  reply[#reply + 1] = count.at
end
if granted == 0 then
  save(0)
  reply[1] = more and 2 or 0
  return reply
end
local most = {} -- by tally: the largest take
for _, one in ipairs(asked) do
  if one.fits or not one.shadow then
    holds[#holds + 1] = take(one.name, one.count, one.key, one.amount)
  end
  local other = most[one.name]
  if not other or one.amount > other.amount then most[one.name] = one end
end
for name, one in pairs(most) do
  for _, count in ipairs(known[name].counts) do
    if not count.present and same_unit(count.rule, one.rule) then
      holds[#holds + 1] = take(name, count, one.key, one.amount)
    end
  end
end
redis.call('HSET', RESERVATIONS, id, cmsgpack.pack(now + lease_ms, RUNNING, holds))
redis.call('ZADD', LEASES, now + lease_ms, id)
tidy()
save(lease_ms + LATE_MS)
return reply
