-- ARGS: late_ms, then for each bucket: key, rule.
-- Returns {more, now_ms, then for each bucket value, carry, at_ms}. more: 1 while leases have ended
-- that this call was too short to give back; ask again.

local reply = { expire() and 1 or 0, now }
for i = 2, #ARGS, 2 do
  local bucket = look_under(ARGS[i], ARGS[i + 1])
  reply[#reply + 1] = bucket.value
  reply[#reply + 1] = bucket.carry
  reply[#reply + 1] = bucket.at
end
save(0)
return reply
