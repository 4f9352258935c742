-- Changes of requests and responses, and marks for the access log. Rendered with the list of
-- headers that clients may not set. One pass over each body chunk, no JSON parsing. The same events
-- count as output here and in picker/server/usage.py.

local DENIED = { --[[DENIED]] }

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
  if id ~= nil and legible(id) ~= id then
    headers:replace("x-request-id", legible(id))
  end
  for _, name in ipairs(DENIED) do
    headers:remove(name)
  end
  -- Usage is read from the response's text, so it must not come compressed.
  headers:remove("accept-encoding")
end

-- A chunk with nothing but usage: only our own stream_options asked for it.
local function is_usage_only(event)
  return event:find('"choices"%s*:%s*%[%s*%]') and event:find('"usage"%s*:%s*{%s*"')
    and not event:find('"error"', 1, true)
end

-- A chunk with a role and nothing else opens a choice: it holds no token yet.
local function opens_choice(event)
  local delta = event:match('"delta"%s*:%s*({[^{}]*})')
  if delta == nil then
    return false
  end
  local rest, roles = delta:gsub('"role"%s*:%s*"[^"]*"', "", 1)
  return roles == 1 and not rest:find(':%s*"[^"]') and not rest:find(":%s*%[%s*[^%]%s]")
end

-- An event that carries output, usually one token.
local function is_content(event)
  local name = event:match("^event:%s*([%w_.]+)")
  if name == nil then
    local at = event:find('"choices"', 1, true)
    if at ~= nil then
      return event:find("^%s*:%s*%[%s*[^%]%s]", at + 9) ~= nil
        and not (event:find('"role"', at, true) and opens_choice(event))
    end
    if not event:find("^data:%s?{") or event:find('^data:%s?{"error"') then
      return false
    end
    name = event:match('^data:%s?{%s*"type"%s*:%s*"([%w_.]+)"') or "delta"
  end
  -- Anthropic's and the Responses API name their events, and only some are output.
  return name:sub(-5) == "delta" and name ~= "message_delta"
    and not event:find('"type"%s*:%s*"signature_delta"')
end

-- Objects of the handle do not outlive a wait for the next chunk: fetch them again each time.
local function note(handle, key, value)
  handle:streamInfo():dynamicMetadata():set("penstock.lua", key, value)
end

function envoy_on_response(handle)
  local decision = handle:streamInfo():dynamicMetadata():get("penstock")
  if decision == nil or decision["id"] == nil then
    return
  end
  local headers = handle:headers()
  if decision["session_token"] ~= nil then
    headers:replace("x-session-token", decision["session_token"])
  end
  if decision["response_headers"] ~= nil then
    for name, value in pairs(decision["response_headers"]) do
      headers:remove(name)
      headers:add(name, value)
    end
  end
  local kind = (headers:get("content-type") or ""):lower()
  local streaming = kind:find("text/event-stream", 1, true) ~= nil
  local renamer = renamer_of(decision, kind, streaming, headers:get("content-encoding"))
  if not streaming then
    if renamer ~= nil then
      headers:remove("content-length")
      rename_body(handle, renamer)
    end
    return
  end

  local strip = decision["strip_usage"] == true
  local events, held, started = 0, "", false
  local last, sent = nil, ""
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    last, sent = chunk, ""
    if size > 0 then
      if not started then
        started = true
        note(handle, "first_byte_us",
          handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
      end
      sent = chunk:getBytes(0, size)
      local text = held .. sent
      local out, from = {}, 1
      while true do
        local _, stop = text:find("\r?\n\r?\n", from)
        if stop == nil then
          break
        end
        local event = text:sub(from, stop)
        from = stop + 1
        if not (strip and is_usage_only(event)) then
          if is_content(event) then
            events = events + 1
          end
          out[#out + 1] = event
        end
      end
      held = text:sub(from)
      if strip then
        sent = table.concat(out)
      end
      if renamer ~= nil then
        sent = renamer.feed(sent)
      end
      if strip or renamer ~= nil then
        chunk:setBytes(sent)
      end
      note(handle, "events", events)
    end
  end
  if held ~= "" and is_content(held) then
    note(handle, "events", events + 1)
  end
  -- An event without its empty line goes out as it is.
  send_rest(last, sent, strip and held or "", renamer)
end
