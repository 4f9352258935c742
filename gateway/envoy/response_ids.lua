-- Puts the ids of stored responses that clients know in place of those that replicas use. The same
-- is done in picker/server/response_names.py, and the arithmetic is that of
-- picker/request/response_ids.py. Put before responses.lua, for whole answers, and before stream.lua.

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
local function id_writer(names, address)
  local replaced, knows = {}, names["pad"] == nil
  if names["held"] ~= nil then
    replaced[1] = replacement(names["held"], names["given"], '"')
    replaced[2] = replacement(names["held"], names["given"], "'") -- in the text of an error
  end
  return function(text)
    local may_have = text:find(PREFIX, 1, true) or names["held"] and text:find(names["held"], 1, true)
    if not may_have then
      return text -- as a token's event has none
    end
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

-- For the response of this handle; nil where ids stay as they are.
local function id_writer_of(metadata, decision)
  if decision == nil or decision["responses"] == nil then
    return nil
  end
  local served = metadata:get("penstock.served")
  return id_writer(decision["responses"], served and served["address"])
end
