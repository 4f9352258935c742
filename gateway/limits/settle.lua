-- ARGS: late_ms, reservation, number of charges, then for each: bucket key, amount; then, when
-- KEYS[4] is there: for how long usage is kept (s), then field and increment in turn.
-- Returns 1, or 0 when the reservation is not known (any more).

local id, charges = ARGS[2], {}
local last = 3 + 2 * ARGS[3]
for i = 4, last, 2 do charges[ARGS[i]] = ARGS[i + 1] end

expire()
local packed = redis.call('HGET', RESERVATIONS, id)
if not packed then
  save(0)
  return 0
end
local _, ended, holds = cmsgpack.unpack(packed)
redis.call('HDEL', RESERVATIONS, id)
redis.call('ZREM', LEASES, id)
for _, hold in ipairs(holds) do
  settle(hold, ended == 1 and 0 or hold.amount, charges[hold.key] or 0)
  let_go(hold)
end
if KEYS[4] then
  for i = last + 2, #ARGS, 2 do redis.call('HINCRBY', KEYS[4], ARGS[i], ARGS[i + 1]) end
  redis.call('EXPIRE', KEYS[4], ARGS[last + 1])
end
save(0)
return 1
