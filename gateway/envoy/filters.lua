-- Changes of requests and responses, and marks for the access log. Rendered with the list of
-- headers that clients may not set. One pass over each body chunk; events.lua and answers.lua read
-- what it says, rename.lua changes the model's name in it.

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

-- Objects of the handle do not outlive a wait for the next chunk: fetch them again each time.
local function note(handle, key, value)
  handle:streamInfo():dynamicMetadata():set("penstock.lua", key, value)
end

local MAX_HELD_BYTES = 8388608 -- an event that is longer passes without being read
local MAX_SCANNED_BYTES = 262144 -- an answer that is longer is not an error

-- What was read of a stream since the last note: one write of metadata for each kind.
local function note_seen(handle, seen, noted)
  if seen.events ~= noted.events then
    noted.events = seen.events
    note(handle, "events", seen.events)
  end
  if seen.failed and not noted.failed then
    noted.failed = true
    note(handle, "failed", true)
    if seen.blames_request then
      note(handle, "blames_request", true)
    end
  end
  if seen.reported then
    seen.reported = false
    note(handle, "usage", seen.usage)
  end
end

-- A whole answer with status 200 may be an error all the same.
local function note_failure(handle, text)
  if #text > MAX_SCANNED_BYTES or not find(text, '"error"', 1, true) then
    return
  end
  local top = object(text)
  if is_failure(text, nil, top) then
    note(handle, "failed", true)
    if blames_request(text, nil, top) then
      note(handle, "blames_request", true)
    end
  end
end

local function pass_json(handle, status, renamer)
  local parts, held_bytes = status < 400 and {} or nil, 0
  local last, sent = nil, ""
  local usage, reported = {}, false
  local follow = answer_follower(function(key, object)
    local take = key == "usage" and take_usage or take_meta
    reported = take(object, 1, usage, false) or reported
  end)
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    last, sent = chunk, ""
    held_bytes = held_bytes + size
    if held_bytes > MAX_SCANNED_BYTES then
      parts = nil
    end
    if size > 0 then
      sent = chunk:getBytes(0, size)
      follow(sent)
      if parts ~= nil then
        parts[#parts + 1] = sent
      end
      if renamer ~= nil then
        sent = renamer.feed(sent)
        chunk:setBytes(sent)
      end
    end
  end
  if renamer ~= nil then
    send_rest(last, sent, "", renamer)
  end
  if reported then
    note(handle, "usage", usage)
  end
  if parts ~= nil then
    note_failure(handle, table.concat(parts))
  end
end

-- Reads a stream's events, and takes out or renames what the client is not to see as it came.
local function pass_events(handle, strip, renamer)
  local seen, noted = new_stream(), {events = 0}
  local held, held_bytes, returns, started = {}, 0, false, false
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
      returns = returns or find(sent, "\r", 1, true) ~= nil
      held[#held + 1] = sent
      held_bytes = held_bytes + size
      local out = {}
      if returns or find(sent, "\n", 1, true) then
        local text, from = #held > 1 and table.concat(held) or sent, 1
        local stop = event_end(text, from, returns)
        while stop ~= nil do
          local event = sub(text, from, stop)
          from = stop + 1
          local left = read_event(seen, event, returns)
          if strip then
            out[#out + 1] = left
          end
          stop = event_end(text, from, returns)
        end
        text = sub(text, from)
        held, held_bytes = {text}, #text
      end
      if held_bytes > MAX_HELD_BYTES then
        out[#out + 1] = table.concat(held)
        held, held_bytes = {}, 0
      end
      if strip then
        sent = table.concat(out)
      end
      if renamer ~= nil then
        sent = renamer.feed(sent)
      end
      if strip or renamer ~= nil then
        chunk:setBytes(sent)
      end
      note_seen(handle, seen, noted)
    end
  end
  local rest = read_rest(seen, table.concat(held), returns)
  note_seen(handle, seen, noted)
  if strip or renamer ~= nil then
    -- An event without its empty line goes out as it is.
    send_rest(last, sent, strip and rest or "", renamer)
  end
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
  local coding = headers:get("content-encoding")
  if coding ~= nil and coding:lower() ~= "identity" then
    return
  end
  local streaming = find(kind, "text/event-stream", 1, true) ~= nil
  local renamer = renamer_of(decision, kind, streaming)
  if streaming then
    note(handle, "events", 0)
    pass_events(handle, decision["strip_usage"] == true, renamer)
  elseif find(kind, "json", 1, true) then
    if renamer ~= nil then
      headers:remove("content-length")
    end
    pass_json(handle, tonumber(headers:get(":status")) or 500, renamer)
  end
end
