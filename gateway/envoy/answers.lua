-- Follows a JSON answer as it passes, for the usage in it. Nothing is held back or read as a whole: a
-- long answer (embeddings, log probabilities) takes a little of the worker's time with each of its
-- pieces, and other streams go on in between. An answer that comes in one piece is only searched. Put
-- before filters.lua.

local COMMA, COLON = 44, 58
local REPORTING = { usage = true, meta_info = true }
local MAX_REPORT_BYTES = 65536
local MAX_KEY_BYTES = 32
local MAX_TAIL_BYTES = 4096 -- read as JSON behind the usage of a whole answer
local NEVER = math.huge

-- Follows JSON text, in pieces cut anywhere, and calls `report` with key and text of each object that
-- may report usage.
local function answer_follower(report)
  local depth, outermost = 0, 0 -- outermost: depth of the members that matter; 0: there are none
  local in_string, odd = false, false -- odd: the piece before ended in a backslash that escapes
  local key, reading_key, at_value = "", false, false
  local captured = nil -- pieces of the object that is being captured
  local captured_bytes = 0

  -- Goes on to the end of the string, or of the piece.
  local function string_end(text, from)
    local at = from
    if odd then
      odd, at = false, at + 1
    end
    while true do
      local quote = find(text, '"', at, true)
      local before = (quote or #text + 1) - 1
      local slashes = 0
      while before - slashes >= at and byte(text, before - slashes) == BACKSLASH do
        slashes = slashes + 1
      end
      if quote == nil then
        odd = slashes % 2 == 1
        return nil
      end
      if slashes % 2 == 0 then
        return quote
      end
      at = quote + 1
    end
  end

  local function keep(piece)
    captured_bytes = captured_bytes + #piece
    if captured_bytes > MAX_REPORT_BYTES then
      captured = nil
    else
      captured[#captured + 1] = piece
    end
  end

  -- What is nested is passed by looking for each sign by itself: that runs at the speed of memory,
  -- and a list of numbers has none of them.
  local function nested(text, from)
    local quote, open, close, brace, end_brace = 0, 0, 0, 0, 0
    local at = from
    while true do
      if quote < at then quote = find(text, '"', at, true) or NEVER end
      if open < at then open = find(text, "[", at, true) or NEVER end
      if close < at then close = find(text, "]", at, true) or NEVER end
      if brace < at then brace = find(text, "{", at, true) or NEVER end
      if end_brace < at then end_brace = find(text, "}", at, true) or NEVER end
      local sign = math.min(quote, open, close, brace, end_brace)
      if sign == NEVER then
        return nil
      end
      at = sign + 1
      if sign == quote then
        in_string = true
        local stop = string_end(text, at)
        if stop == nil then
          return nil
        end
        in_string, at = false, stop + 1
      elseif sign == open or sign == brace then
        depth = depth + 1
      else
        depth = depth - 1
        if depth <= outermost then
          return at
        end
      end
    end
  end

  -- Between the members of the outermost object, or outside of it.
  local function member(text, from)
    local at = find(text, '["{}%[%],:]', from)
    if at == nil then
      return nil
    end
    local sign = byte(text, at)
    if sign == QUOTE then
      in_string = true
      reading_key = depth == 1 and not at_value
      key = reading_key and "" or key
    elseif sign == COMMA then
      at_value = false
    elseif sign == COLON then
      at_value = true
    elseif (sign == OPEN or sign == LIST) then
      if depth == 0 then
        outermost = sign == OPEN and 1 or 0
      elseif depth == 1 and outermost == 1 and at_value and sign == OPEN and REPORTING[key] then
        captured, captured_bytes = {}, 0
      end
      depth = depth + 1
    else
      depth = depth - 1
      outermost = 0
    end
    return at + 1
  end

  return function(text)
    local at = 1
    local from = captured ~= nil and 1 or nil -- of what is captured of this piece
    while at ~= nil and at <= #text do
      if in_string then
        local stop = string_end(text, at)
        if reading_key and #key < MAX_KEY_BYTES then
          key = key .. sub(text, at, (stop or #text + 1) - 1)
        end
        if stop ~= nil then
          in_string, reading_key = false, false
        end
        at = stop and stop + 1
      elseif depth > 1 or (depth == 1 and outermost == 0) then
        at = nested(text, at)
        if at ~= nil and captured ~= nil then
          keep(sub(text, from, at - 1))
          if captured ~= nil then
            report(key, table.concat(captured))
          end
          captured, from = nil, nil
        end
      else
        local before = captured
        at = member(text, at)
        if captured ~= before then
          from = at - 1
        end
      end
    end
    if captured ~= nil and from ~= nil then
      keep(sub(text, from))
    end
  end
end

-- Calls `report` as the follower does, for a text that is the whole answer. False: that takes the
-- follower, nothing was reported.
--
-- In JSON `"usage"` with a colon is a key, wherever it stands: within a string a backslash is before
-- its second quotation mark. It is a key of the outermost object when, behind its value, only members
-- and one closing brace are left.
local function read_whole(text, report)
  if find(text, '"meta_info"', 1, true) then
    return false
  end
  local at, key_stop = find(text, '"usage"', 1, true)
  if at == nil then
    return true
  end
  local value = match(text, "^%s*:%s*(){", key_stop + 1)
  if value == nil or byte(text, at - 1) == BACKSLASH or find(text, '"usage"', value, true) then
    return false
  end
  local last = value_end(text, value)
  if last == nil or last - value >= MAX_REPORT_BYTES or #text - last > MAX_TAIL_BYTES then
    return false
  end
  local stop = last
  while not find(text, "^%s*}%s*$", stop + 1) do
    local key = match(text, '^%s*,%s*()"', stop + 1)
    local key_end = key and string_end(text, key)
    local member = key_end and match(text, "^%s*:%s*()", key_end + 1)
    stop = member and value_end(text, member)
    if stop == nil then
      return false
    end
  end
  report("usage", sub(text, value, last))
  return true
end
