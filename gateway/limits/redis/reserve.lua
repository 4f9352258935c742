-- ARGS: late_ms, reservation, lease_ms, forced (1: whatever is left), then for each take: bucket key,
-- rule, shadow (1), amount.
-- Returns {granted, now_ms, then for each take value, carry, at_ms as found}, or {} when the
-- reservation is known. granted: 1, 0, or 2: denied, while leases have ended that this call was too
-- short to give back; ask again.

local id, lease_ms, forced = ARGS[2], ARGS[3], ARGS[4] == 1
local granted = 1
local holds, reply = {}, { 1, now }

local more = expire()
if redis.call('HEXISTS', RESERVATIONS, id) == 1 then
  save(0)
  return {}
end
for i = 5, #ARGS, 4 do
  local bucket = look_under(ARGS[i], ARGS[i + 1])
  local shadow, amount = ARGS[i + 2] == 1, ARGS[i + 3]
  local fits = available(bucket) >= amount
  if fits or (forced and not shadow) then
    holds[#holds + 1] = { key = bucket.key, rule = bucket.rule.text, amount = amount,
      at = bucket.at, epoch = bucket.epoch }
  elseif not shadow then
    granted = 0
  end
  reply[#reply + 1] = bucket.value
  reply[#reply + 1] = bucket.carry
  reply[#reply + 1] = bucket.at
end
if granted == 0 then
  save(0)
  reply[1] = more and 2 or 0
  return reply
end
for _, hold in ipairs(holds) do
  local bucket = known[hold.key]
  bucket.value = bucket.value + (bucket.rule.kind == 't' and -hold.amount or hold.amount)
  bucket.holders = bucket.holders + 1
  bucket.changed = true
end
redis.call('HSET', RESERVATIONS, id, cmsgpack.pack(now + lease_ms, RUNNING, holds))
redis.call('ZADD', LEASES, now + lease_ms, id)
tidy()
save(lease_ms + LATE_MS)
return reply
