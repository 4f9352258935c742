-- ARGS: late_ms, then for each bucket: key, rule.
-- Returns {more, now_ms, then for each bucket value, carry, at_ms}. more: 1 while leases have ended
-- that this call was too short to give back; ask again.

local reply, asked = { expire() and 1 or 0, now }, {}
for i = 2, #ARGS, 2 do
  asked[#asked + 1] = { name = tally_of(ARGS[i]), rule = parse(ARGS[i + 1]) }
end
ask(asked)
for _, one in ipairs(asked) do
  reply[#reply + 1] = one.count.value
  reply[#reply + 1] = one.count.carry
  reply[#reply + 1] = one.count.at
end
save(0)
return reply
