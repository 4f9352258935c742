-- Requests that are no good as they are. gateway/envoy/filters.py says which come here.

-- Request ids go into gRPC messages, where one byte that is not UTF-8 spoils the whole message.
local function legible(id)
  return (id:sub(1, 128):gsub("[^%w%-_.:/=+@~]", "?"))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(":method") == "CONNECT" then
    handle:respond({[":status"] = "405", ["content-type"] = "application/json"},
      '{"error":{"message":"This gateway is no forward proxy.",' ..
      '"type":"invalid_request_error","param":null,"code":"method_not_allowed"}}')
    return
  end
  local id = headers:get("x-request-id")
  if id ~= nil then
    headers:replace("x-request-id", legible(id))
  end
end
