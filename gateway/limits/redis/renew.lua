-- ARGS: late_ms, lease_ms, then reservations.
-- Returns how many of them are still held; their leases end lease_ms from now at the earliest.

local lease_ms, held = ARGS[2], 0
expire()
for i = 3, #ARGS do
  local packed = redis.call('HGET', RESERVATIONS, ARGS[i])
  if packed then
    local lease_until, state, holds = cmsgpack.unpack(packed)
    if state == RUNNING and lease_until > now then
      lease_until = math.max(lease_until, now + lease_ms)
      redis.call('HSET', RESERVATIONS, ARGS[i], cmsgpack.pack(lease_until, RUNNING, holds))
      redis.call('ZADD', LEASES, lease_until, ARGS[i])
      held = held + 1
    end
  end
end
save(lease_ms + LATE_MS)
return held
