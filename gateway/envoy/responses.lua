-- Puts the ids that clients know into whole answers. In streams stream.lua does it. Put behind
-- response_ids.lua.

function envoy_on_response(handle)
  local kind = (handle:headers():get("content-type") or ""):lower()
  if not kind:find("json", 1, true) then
    return
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  local write = id_writer_of(metadata, metadata:get("penstock"))
  if write == nil then
    return
  end
  local body = handle:body()
  if body ~= nil and body:length() > 0 then
    local size = body:setBytes(write(body:getBytes(0, body:length())))
    handle:headers():replace("content-length", size)
  end
end
