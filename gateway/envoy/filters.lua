-- Changes of responses, and marks for the access log. One pass over each body chunk; stream.lua and
-- answers.lua read what it says, rename.lua changes the model's name in it.

-- Objects of the handle do not outlive a wait for the next chunk: fetch them again each time.
local function note(handle, key, value)
  handle:streamInfo():dynamicMetadata():set("penstock.lua", key, value)
end

local MAX_SCANNED_BYTES = 262144 -- an answer that is longer is not an error

-- How far a stream has come is noted only where it is not what the last note lets expect: so many
-- events with so many bytes sent, then `rate` events a byte. A stream that breaks off is charged for
-- what its note and the bytes sent lead to: picker/server/access_log.py computes that as this does.
local function expected_events(noted, bytes)
  return noted.events + math.floor((bytes - noted.bytes) * noted.rate + 0.5)
end

local LEARNED_EVENTS = 8 -- so many show how long the events of a stream are

-- `piece_events`, `piece_bytes`: of the last piece.
local function note_progress(handle, noted, events, bytes, piece_events, piece_bytes)
  local passed = events - noted.events
  if passed >= LEARNED_EVENTS and bytes > noted.bytes then
    noted.rate = passed / (bytes - noted.bytes)
  elseif piece_events > 0 and piece_bytes > 0 then
    noted.rate = piece_events / piece_bytes
  end
  noted.events, noted.bytes = events, bytes
  note(handle, "progress", noted)
end

local function note_report(handle, seen)
  if seen.failed then
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

-- `length`: of the body, where that is known.
local function pass_json(handle, status, length, renamer)
  local parts, held_bytes = status < 400 and {} or nil, 0
  local last, sent = nil, ""
  local usage, reported = {}, false
  local function report(key, object)
    local take = key == "usage" and take_usage or take_meta
    reported = take(object, 1, usage, false) or reported
  end
  local follow = nil
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    last, sent = chunk, ""
    held_bytes = held_bytes + size
    if held_bytes > MAX_SCANNED_BYTES then
      parts = nil
    end
    if size > 0 then
      sent = chunk:getBytes(0, size)
      if size ~= length or not read_whole(sent, report) then
        follow = follow or answer_follower(report)
        follow(sent)
      end
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

local function pass_events(handle, strip, write, renamer)
  local seen = new_stream()
  local reader = stream_reader(seen, strip, write, renamer)
  local noted, bytes, started = {events = 0, bytes = 0, rate = 0}, 0, false
  local last, sent, failed = nil, "", false
  note(handle, "progress", noted)
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    last, sent = chunk, ""
    if size > 0 then
      if not started then
        started = true
        note(handle, "first_byte_us",
          handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
      end
      local came, before = chunk:getBytes(0, size), seen.events
      sent = reader.take(came)
      if sent ~= came then
        chunk:setBytes(sent)
      end
      bytes = bytes + #sent
      if expected_events(noted, bytes) ~= seen.events then
        note_progress(handle, noted, seen.events, bytes, seen.events - before, #sent)
      end
      if seen.reported or seen.failed ~= failed then
        failed = seen.failed
        note_report(handle, seen)
      end
    end
  end
  bytes = bytes + send_rest(last, sent, reader.finish(), renamer)
  if expected_events(noted, bytes) ~= seen.events then
    note_progress(handle, noted, seen.events, bytes, 0, 0)
  end
  if seen.reported or seen.failed ~= failed then
    note_report(handle, seen)
  end
end

-- As picker/request/answer.py does behind other gateways.
local function show_decision(headers, shown, served)
  local address = served ~= nil and served["address"] or nil
  headers:remove("x-penstock-predicted-ttft-ms")
  if address == nil then
    headers:remove("x-penstock-endpoint")
    return
  end
  headers:replace("x-penstock-endpoint", address)
  if address == shown["first"] and shown["ttft_ms"] ~= "" then
    headers:add("x-penstock-predicted-ttft-ms", shown["ttft_ms"])
  end
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local decision = metadata:get("penstock")
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
  if decision["shown"] ~= nil then
    show_decision(headers, decision["shown"], metadata:get("penstock.served"))
  end
  local kind = (headers:get("content-type") or ""):lower()
  local coding = headers:get("content-encoding")
  if coding ~= nil and coding:lower() ~= "identity" then
    return
  end
  local streaming = find(kind, "text/event-stream", 1, true) ~= nil
  local renamer = renamer_of(decision, kind, streaming)
  if streaming then
    local write = id_writer_of(metadata, decision)
    pass_events(handle, decision["strip_usage"] == true, write, renamer)
  elseif find(kind, "json", 1, true) then
    local length = headers:get("content-length") -- no value at all where there is none
    if renamer ~= nil then
      headers:remove("content-length")
    end
    pass_json(handle, tonumber(headers:get(":status")) or 500, tonumber(length), renamer)
  end
end
