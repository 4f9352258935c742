-- Puts the ids of stored responses that clients know in place of those that replicas use. The same
-- is done in picker/server/response_names.py, and the arithmetic is that of
-- picker/request/response_ids.py.

local ALPHABET = "--[[ALPHABET]]"
local PREFIX = "resp_"

local INDEX = {}
for at = 1, #ALPHABET do
  INDEX[ALPHABET:byte(at)] = at - 1
end

local function shifted(text, pad)
  local out = {}
  for at = 1, #text do
    local one, by = INDEX[text:byte(at)], INDEX[pad:byte(at) or 0]
    if one == nil or by == nil then
      out[at] = text:sub(at, at)
    else
      local to = (one + by) % 64 + 1
      out[at] = ALPHABET:sub(to, to)
    end
  end
  return table.concat(out)
end

local function plain(text)
  return (text:gsub("%p", "%%%0"))
end

local function replacement(from, to, quote)
  return {quote .. plain(from) .. quote, quote .. to:gsub("%%", "%%%%") .. quote}
end

-- Knows the id of a new response as soon as a text has it.
local function writer(names, address)
  local replaced, knows = {}, names["pad"] == nil
  if names["held"] ~= nil then
    replaced[1] = replacement(names["held"], names["given"], '"')
    replaced[2] = replacement(names["held"], names["given"], "'") -- in the text of an error
  end
  return function(text)
    if not knows then
      local own = text:match('"id"%s*:%s*"(resp_[%w_%-]+)"')
      local seal = names["seals"][address]
      if own ~= nil then
        knows = true
        if seal ~= nil and own ~= names["held"] then
          local given = PREFIX .. shifted(own:sub(#PREFIX + 1), names["pad"]) .. seal
          replaced[#replaced + 1] = replacement(own, given, '"')
        end
      end
    end
    for _, one in ipairs(replaced) do
      text = text:gsub(one[1], one[2])
    end
    return text
  end
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local decision, served = metadata:get("penstock"), metadata:get("penstock.served")
  if decision == nil or decision["responses"] == nil then
    return
  end
  local write = writer(decision["responses"], served and served["address"])
  local kind = (handle:headers():get("content-type") or ""):lower()
  if kind:find("json", 1, true) then
    local body = handle:body()
    if body ~= nil and body:length() > 0 then
      local size = body:setBytes(write(body:getBytes(0, body:length())))
      handle:headers():replace("content-length", size)
    end
    return
  end
  if not kind:find("text/event-stream", 1, true) then
    return
  end
  local held = ""
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size == 0 then
      if held ~= "" then
        chunk:setBytes(write(held))
        held = ""
      end
    else
      local text, from = held .. chunk:getBytes(0, size), 1
      while true do
        local _, stop = text:find("\r?\n\r?\n", from)
        if stop == nil then
          break
        end
        from = stop + 1
      end
      held = text:sub(from)
      chunk:setBytes(write(text:sub(1, from - 1)))
    end
  end
end
