-- Puts the model's name as the client gave it into a response that passes, in place of the name
-- that served: at the top level only, and in streams also in the `response` or `message` of an
-- event. Nothing is held back but the beginning of a name that may have to change. Put behind
-- answers.lua. On the standard port picker/server/rename.py does the same.

-- A key that is written in escapes takes six bytes a letter.
local LONGEST_KEY_BYTES = 6 * #"response"
local HOLDERS = { response = true, message = true }
local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function utf8(code)
  if code < 0x80 then
    return string.char(code)
  end
  local bytes, first = {}, 0x40
  while code >= first do
    table.insert(bytes, 1, string.char(0x80 + code % 0x40))
    code, first = math.floor(code / 0x40), first / 2
  end
  return string.char(0x100 - 2 * first + code) .. table.concat(bytes)
end

-- The string that is written so, without its quotation marks; nil for none.
local function meant(written)
  local slash = written:find("\\", 1, true)
  if slash == nil then
    return written
  end
  local out, from = {}, 1
  while slash ~= nil do
    out[#out + 1] = written:sub(from, slash - 1)
    local kind = written:sub(slash + 1, slash + 1)
    from = slash + 2
    if kind == "u" then
      local code = tonumber(written:match("^%x%x%x%x", from) or "", 16)
      if code == nil then
        return nil
      end
      from = from + 4
      if code >= 0xD800 and code < 0xE000 then
        local low = tonumber(written:match("^\\u(%x%x%x%x)", from) or "", 16)
        if code >= 0xDC00 or low == nil or low < 0xDC00 or low >= 0xE000 then
          return nil
        end
        code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00)
        from = from + 6
      end
      out[#out + 1] = utf8(code)
    else
      out[#out + 1] = ESCAPES[kind] or kind
    end
    slash = written:find("\\", from, true)
  end
  out[#out + 1] = written:sub(from)
  return table.concat(out)
end

-- Follows JSON text, in pieces cut anywhere. `served` and `asked` are JSON strings; `holders` are
-- keys of the outermost object whose objects hold a model's name as well.
local function json_renamer(served, asked, holders)
  local name, replacement = meant(served:sub(2, -2)), asked:sub(2, -2)
  local longest = 6 * #name
  local depth, watched = 0, 0 -- watched: depth of the innermost object whose members matter
  local at_value, key = false, nil
  local inside, held, escaped = nil, "", false -- inside: "key", "name", "other", or no string

  -- Goes on to the next sign between members of a watched object, or outside of all.
  local function member(text, at)
    local found = text:find('["{}%[%],:]', at)
    if found == nil then
      return #text + 1
    end
    local sign = text:byte(found)
    if sign == 0x22 then -- "
      if depth == 0 then
        inside = "other"
      elseif not at_value then
        inside = "key"
      else
        inside = key == "model" and "name" or "other"
      end
      held = ""
    elseif sign == 0x2C then -- ,
      at_value, key = false, nil
    elseif sign == 0x3A then -- :
      at_value = true
    elseif sign == 0x7B then -- {
      if depth == 0 or (depth == 1 and at_value and key ~= nil and holders[key]) then
        watched, at_value = watched + 1, false
      end
      depth, key = depth + 1, nil
    elseif sign == 0x5B then -- [
      depth = depth + 1
    else
      depth = math.max(0, depth - 1)
      if watched > depth then
        watched, at_value, key = depth, true, nil
      end
    end
    return found + 1
  end

  -- The end of a string, or of the piece, and whether the string ends there.
  local function string_end(text, at)
    if escaped then
      escaped = false
      at = at + 1
    end
    while true do
      local quote = find(text, '"', at, true)
      local before = (quote or #text + 1) - 1
      local slashes = 0
      while before - slashes >= at and byte(text, before - slashes) == BACKSLASH do
        slashes = slashes + 1
      end
      if quote == nil then
        escaped = slashes % 2 == 1
        return #text + 1, false
      elseif slashes % 2 == 0 then
        return quote, true
      end
      at = quote + 1
    end
  end

  -- Where the signs of what is nested next stand in the piece. Each is looked for by itself: that
  -- runs at the speed of memory, and a list of numbers has none of them.
  local quote, open, close, brace, end_brace

  -- Goes on to the end of what is nested, or of the piece.
  local function skip(text, at)
    while true do
      if quote < at then quote = find(text, '"', at, true) or NEVER end
      if open < at then open = find(text, "[", at, true) or NEVER end
      if close < at then close = find(text, "]", at, true) or NEVER end
      if brace < at then brace = find(text, "{", at, true) or NEVER end
      if end_brace < at then end_brace = find(text, "}", at, true) or NEVER end
      local sign = math.min(quote, open, close, brace, end_brace)
      if sign == NEVER then
        return #text + 1
      end
      at = sign + 1
      if sign == quote then
        local stop, closes = string_end(text, at)
        if not closes then
          inside = "other"
          return stop
        end
        at = stop + 1
      elseif sign == open or sign == brace then
        depth = depth + 1
      else
        depth = depth - 1
        if depth == watched then
          return at
        end
      end
    end
  end

  local function feed(text)
    local out, at, kept = {}, 1, 1 -- kept: from where the text is not in `out` yet
    quote, open, close, brace, end_brace = 0, 0, 0, 0, 0
    while at <= #text do
      if inside == nil then
        at = depth > watched and skip(text, at) or member(text, at)
      else
        local begins, closes = at, false
        at, closes = string_end(text, at)
        if inside ~= "other" then
          if inside == "name" and held == "" then
            out[#out + 1] = text:sub(kept, begins - 1)
          end
          held = held .. text:sub(begins, at - 1)
          if inside == "name" then
            kept = at
            if #held > longest then
              out[#out + 1] = held
              inside = "other"
            elseif closes then
              out[#out + 1] = meant(held) == name and replacement or held
              key = nil
            end
          elseif #held > LONGEST_KEY_BYTES then
            inside = "other"
          elseif closes then
            key = meant(held)
          end
        end
        if closes then
          inside = nil
          at = at + 1
        end
      end
    end
    out[#out + 1] = text:sub(kept)
    return table.concat(out)
  end

  -- What is held back, when the text ends or breaks off.
  local function rest()
    local text = inside == "name" and held or ""
    held = ""
    if inside ~= nil then
      inside = "other"
    end
    return text
  end

  -- Another text begins; nothing may be held any more.
  local function reset()
    depth, watched, at_value, key, inside, escaped = 0, 0, false, nil, nil, false
  end

  return feed, rest, reset
end

-- An event's whole JSON with the name in it changed, where one look shows where it stands: most
-- events of a chat are so. Else nil.
local function at_a_glance(text, served, asked)
  if text:find("\\u006", 1, true) ~= nil then
    return nil -- a letter of the key may be written as an escape
  end
  local first, last = text:find('"model"', 1, true)
  if first == nil then
    return text
  end
  local opens = text:find("{", 1, true)
  local other = opens and text:find("[{%[\\]", opens + 1)
  local value = text:match('^%s*:%s*()"', last + 1)
  if opens == nil or opens > first or (other ~= nil and other < first) or value == nil
    or text:sub(value, value + #served - 1) ~= served or text:find('"model"', value, true) then
    return nil
  end
  return text:sub(1, value - 1) .. asked .. text:sub(value + #served)
end

-- Follows the events of a stream, in pieces cut anywhere.
local function event_renamer(served, asked)
  local json, rest, reset = json_renamer(served, asked, HOLDERS)
  local begun, after_cr = "", false -- begun: how the line begins, up to the end of a field's name
  local fresh = true -- nothing of the event's data has passed

  local function feed(text)
    local out, at = {}, 1
    if after_cr and text:byte(1) == 0x0A then -- the end of a line was cut in two
      out[1], at = "\n", 2
    end
    after_cr = text == "" and after_cr
    while at <= #text do
      local first = text:find("[\r\n]", at)
      local last = first
      if first ~= nil and text:byte(first) == 0x0D then
        if text:byte(first + 1) == 0x0A then
          last = first + 1
        end
        after_cr = first == #text
      end
      local stop = (first or #text + 1) - 1
      local missing = 5 - #begun
      if missing > 0 and at <= stop then
        local head = text:sub(at, math.min(stop, at + missing - 1))
        begun = begun .. head
        out[#out + 1] = head
        at = at + #head
      end
      if at <= stop then
        local content = text:sub(at, stop)
        if begun == "data:" then
          local next = fresh and missing == 5 and last ~= nil and text:byte(last + 1)
          local whole = next == 0x0A or next == 0x0D -- the empty line follows
          content = whole and at_a_glance(content, served, asked) or json(content)
          fresh = false
        end
        out[#out + 1] = content
      end
      if first == nil then
        break
      end
      out[#out + 1] = rest()
      out[#out + 1] = text:sub(first, last)
      if begun == "" then
        fresh = true
        reset()
      end
      begun, at = "", last + 1
    end
    return table.concat(out)
  end

  -- Of whole events, the lines of which end with a newline, behind whole events: most begin as the
  -- one before them did, up to the model's name.
  local beginning, changed = nil, nil

  local function whole(event)
    local opens = event:find('"model"', 1, true)
    local _, last = event:find(served, opens, true)
    local begun_so = event:sub(1, last or 0)
    local content = begun_so:match("^data:([^\n]*)$")
    local out = feed(event)
    if content ~= nil and at_a_glance(content, served, asked) == content:sub(1, -#served - 1) .. asked
    then
      beginning, changed = begun_so, begun_so:sub(1, -#served - 1) .. asked
    end
    return out
  end

  local function pass(text)
    local escaped = text:find("\\u006", 1, true)
    if escaped == nil and text:find('model"', 1, true) == nil then
      return text
    end
    local out, from = {}, 1
    repeat
      local stop = text:find("\n\n", from, true)
      stop = stop and stop + 1 or #text
      local event = from == 1 and stop == #text and text or text:sub(from, stop)
      from = stop + 1
      if beginning ~= nil and escaped == nil and event:sub(1, #beginning) == beginning
        and event:find('model"', #beginning + 1, true) == nil then
        event = changed .. event:sub(#beginning + 1)
      else
        event = whole(event)
      end
      out[#out + 1] = event
    until from > #text
    return #out == 1 and out[1] or table.concat(out)
  end

  return feed, rest, pass
end

-- For a response: nil where nothing has to change, else `feed`, `rest`, and for streams `pass`.
local function renamer_of(decision, kind, streaming)
  local served, asked = decision["served_model"], decision["asked_model"]
  if served == nil then
    return nil
  end
  local feed, rest, pass
  if streaming then
    feed, rest, pass = event_renamer(served, asked)
  elseif kind:find("json", 1, true) then
    feed, rest = json_renamer(served, asked, {})
  else
    return nil
  end
  return { feed = feed, rest = rest, pass = pass }
end

-- Sends what is left at the end of a body, behind what was `sent` of its last chunk; gives its length.
-- Behind trailers nothing can be sent any more.
local function send_rest(chunk, sent, left, renamer)
  if renamer ~= nil then
    left = renamer.feed(left) .. renamer.rest()
  end
  if left == "" or chunk == nil then
    return 0
  end
  local possible = pcall(function()
    chunk:setBytes(sent .. left)
  end)
  return possible and #left or 0
end
