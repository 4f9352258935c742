-- Before every try but the first: notes how the try before it ended, and ends a request that has
-- broken two replicas. Nothing was sent: the connection was refused. Something was sent and nothing
-- came back: the replica broke off, maybe because of this very request.

local BROKEN = 2

-- gateway/envoy/local_replies.py has the body.
local function refuse(handle)
  handle:respond({[":status"] = "502"}, "")
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local sent, received = (headers:get("x-penstock-sent") or ""):match("(%d+) (%d+)")
  headers:remove("x-penstock-sent")
  local noted = handle:streamInfo():dynamicMetadata()
  local before = noted:get("penstock.tries") or {}
  sent, received = tonumber(sent) or 0, tonumber(received) or 0
  if before["given_up"] then
    refuse(handle)
    return
  end
  local ended = "refused"
  if received > (before["received"] or 0) then
    ended = before["status"] or "reset"
  elseif sent > (before["sent"] or 0) then
    ended = "reset"
  end
  local tries = (before["tries"] or "") .. ended .. " "
  noted:set("penstock.tries", "tries", tries)
  noted:set("penstock.tries", "sent", sent)
  noted:set("penstock.tries", "received", received)
  local _, broken = tries:gsub("reset", "")
  if broken >= BROKEN then
    noted:set("penstock.tries", "given_up", true)
    refuse(handle)
  end
end
