-- What an answer reports, read as it passes: the framing of its events, output, usage, failures. Put
-- before filters.lua. The same signs count here as in picker/server/events.py and usage.py.
--
-- A token's event costs a few plain finds. JSON is scanned only in events that may report something:
-- values that do not matter are skipped, not built.

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local QUOTE, BACKSLASH, OPEN, CLOSE, LIST = 34, 92, 123, 125, 91
local RETURN, NEWLINE = 13, 10
local MAX_REPORTED = 2147483648
local BYTE_ORDER_MARK = "\239\187\191"

-- The last byte of the string that begins at `at`; nil when it does not end.
local function string_end(text, at)
  local from = at + 1
  while true do
    local quote = find(text, '"', from, true)
    if quote == nil then
      return nil
    end
    local before = quote - 1
    while byte(text, before) == BACKSLASH do
      before = before - 1
    end
    if (quote - before) % 2 == 1 then
      return quote
    end
    from = quote + 1
  end
end

-- The last byte of the JSON value that begins at `at`; nil when it does not end.
local function value_end(text, at)
  local first = byte(text, at)
  if first == QUOTE then
    return string_end(text, at)
  end
  if first ~= OPEN and first ~= LIST then
    local stop = find(text, "[,}%]%s]", at)
    return stop ~= nil and stop > at and stop - 1 or nil
  end
  local depth, from = 0, at
  while true do
    local mark = find(text, '[{}%[%]"]', from)
    if mark == nil then
      return nil
    end
    local sign = byte(text, mark)
    if sign == QUOTE then
      mark = string_end(text, mark)
      if mark == nil then
        return nil
      end
    elseif sign == OPEN or sign == LIST then
      depth = depth + 1
    else
      depth = depth - 1
      if depth == 0 then
        return mark
      end
    end
    from = mark + 1
  end
end

-- Where the value of each member of the object at `at` begins, by key, and the object's last byte;
-- nil when there is no whole object.
local function members(text, at)
  if at == nil or byte(text, at) ~= OPEN then
    return nil
  end
  local found = {}
  local from = find(text, "%S", at + 1)
  if from ~= nil and byte(text, from) == CLOSE then
    return found, from
  end
  while from ~= nil and byte(text, from) == QUOTE do
    local stop = string_end(text, from)
    if stop == nil then
      return nil
    end
    local value = match(text, "^%s*:%s*()", stop + 1)
    local last = value and value_end(text, value)
    if last == nil then
      return nil
    end
    found[sub(text, from + 1, stop - 1)] = value
    local after = match(text, "^%s*,%s*()", last + 1)
    if after == nil then
      local close = match(text, "^%s*()}", last + 1)
      if close == nil then
        return nil
      end
      return found, close
    end
    from = after
  end
  return nil
end

-- The members of a text that is one JSON object and nothing else; nil when it is not.
local function object(text)
  local found, last = members(text, find(text, "%S"))
  if found == nil or find(text, "%S", last + 1) then
    return nil
  end
  return found
end

-- A plain JSON string at `at`; nil for any other value.
local function word(text, at)
  return at and match(text, '^"([%w_.%-]*)"', at)
end

-- A count of tokens at `at`; nil for what cannot be one.
local function count(text, at)
  local number = at and tonumber((match(text, "^(%d+)[%s,}%]]", at)))
  return number ~= nil and number < MAX_REPORTED and number or nil
end

-- Counts add up during an answer: the last one counts, but for a 0 after more.
local function learn(usage, key, number)
  if number ~= nil and (number > 0 or usage[key] == nil) then
    usage[key] = number
  end
end

local function take_usage(text, at, usage, premature)
  local given = members(text, at)
  if given == nil then
    return false
  end
  local read = count(text, given.cache_read_input_tokens)
  local whole = count(text, given.prompt_tokens)
  local input = count(text, given.input_tokens)
  if whole == nil and input ~= nil then
    -- Anthropic leaves cached and newly cached tokens out of input_tokens.
    whole = input + (read or 0) + (count(text, given.cache_creation_input_tokens) or 0)
  end
  learn(usage, "input", whole)
  if not premature then
    learn(usage, "output", count(text, given.completion_tokens))
    learn(usage, "output", count(text, given.output_tokens))
  end
  for _, key in ipairs({"prompt_tokens_details", "input_tokens_details"}) do
    local details = members(text, given[key])
    read = read or details ~= nil and count(text, details.cached_tokens) or nil
  end
  learn(usage, "cached", read)
  for _, key in ipairs({"completion_tokens_details", "output_tokens_details"}) do
    local details = members(text, given[key])
    learn(usage, "reasoning", details and count(text, details.reasoning_tokens))
  end
  return true
end

-- SGLang's own API.
local function take_meta(text, at, usage)
  local meta = members(text, at)
  if meta == nil then
    return false
  end
  learn(usage, "input", count(text, meta.prompt_tokens))
  learn(usage, "output", count(text, meta.completion_tokens))
  learn(usage, "cached", count(text, meta.cached_tokens))
  return true
end

-- Usage is at the top, in `response` or in `message`; in `meta_info` with SGLang's own API.
local function take_usages(text, top, usage)
  local reported = take_usage(text, top.usage, usage, false)
  local response = members(text, top.response)
  if response ~= nil then
    reported = take_usage(text, response.usage, usage, false) or reported
  end
  -- message_start says an output of 0 or 1: a stream that broke off would count as that.
  local message = members(text, top.message)
  if message ~= nil then
    reported = take_usage(text, message.usage, usage, true) or reported
  end
  return take_meta(text, top.meta_info, usage) or reported
end

local FAILURES = {
  ["error"] = true, ["response.error"] = true, ["response.failed"] = true,
  ["response.cancelled"] = true,
}
local BLAMING_CODES = {[400] = true, [413] = true, [422] = true}
local BLAMING_TYPES = {
  ["invalid_request_error"] = true, ["BadRequestError"] = true, ["UnprocessableEntityError"] = true,
}
local LENGTHS = {max_output_tokens = true, max_tokens = true, length = true}

-- A value that is there and says something: not null, false, 0 or empty.
local function is_said(text, at)
  return at ~= nil and not find(text, "^null", at) and not find(text, "^false", at)
    and not find(text, '^""', at) and not find(text, "^0[%s,}]", at)
    and not find(text, "^{%s*}", at) and not find(text, "^%[%s*%]", at)
end

-- Whether an answer or event says that the engine failed. An answer that ends at its bound has not.
local function is_failure(text, name, top)
  if FAILURES[name] or top == nil then
    return FAILURES[name] == true
  end
  local kind = name or word(text, top.type)
  if FAILURES[kind] or word(text, top.object) == "error" or is_said(text, top.error) then
    return true
  end
  local response = members(text, top.response)
  if kind == "response.incomplete" then
    local details = response and members(text, response.incomplete_details)
    return not (details and LENGTHS[word(text, details.reason)])
  end
  if response ~= nil and is_said(text, response.error) then
    return true
  end
  local first = top.choices and match(text, "^%[%s*(){", top.choices)
  local choice = members(text, first)
  return choice ~= nil
    and (word(text, choice.finish_reason) == "error" or is_said(text, choice.error))
end

-- Of a failure: whether the engine says that it is the request's own, or somebody has cancelled it.
local function blames_request(text, name, top)
  if top == nil then
    return false
  end
  if name == "response.cancelled" or word(text, top.type) == "response.cancelled" then
    return true
  end
  local at, response = top.error, members(text, top.response)
  if not is_said(text, at) and response ~= nil then
    at = response.error
  end
  if word(text, top.object) == "error" then
    at = find(text, "{", 1, true)
  end
  local given = members(text, at)
  if given == nil then
    return false
  end
  local code, kind = count(text, given.code), word(text, given.type)
  return code ~= nil and BLAMING_CODES[code] == true or kind ~= nil and BLAMING_TYPES[kind] == true
end

-- A chunk with a role and nothing else opens a choice: it holds no token yet.
local function opens_choice(payload)
  local delta = match(payload, '"delta"%s*:%s*({[^{}]*})')
  if delta == nil then
    return false
  end
  local rest, roles = delta:gsub('"role"%s*:%s*"[^"]*"', "", 1)
  return roles == 1 and not find(rest, ':%s*"[^"]') and not find(rest, ":%s*%[%s*[^%]%s]")
end

-- Anthropic's and the Responses API name their events, and only some are output.
local function is_output(kind, payload)
  return sub(kind, -5) == "delta" and kind ~= "message_delta"
    and not (find(payload, '"signature_delta"', 1, true)
      and find(payload, '"type"%s*:%s*"signature_delta"'))
end

-- What is known of a stream: its events with output, usually one token each; its usage, with how many
-- events there were when it was reported; whether usage is new; whether the engine failed.
local function new_stream()
  return {events = 0, usage = {}, reported = false, failed = false, first = true}
end

-- Takes one document of a stream into account. True for a chunk with nothing but usage: where the
-- client did not ask for it, it is not for the client.
local function read_document(seen, name, payload)
  local choices = find(payload, '"choices"', 1, true)
  if choices ~= nil and not find(payload, "^%s*:", choices + 9) then
    choices = nil
  end
  local content, kind = false, name
  if choices ~= nil then
    content = find(payload, "^%s*:%s*%[%s*[^%]%s]", choices + 9) ~= nil
      and not (find(payload, '"role"', choices, true) and opens_choice(payload))
  elseif name ~= nil then
    content = is_output(name, payload)
  end
  local unnamed = choices == nil and name == nil
  if unnamed or FAILURES[name] or name == "response.incomplete"
    or find(payload, '"usage"', 1, true) or find(payload, '"error"', 1, true) then
    local top = object(payload)
    if unnamed and top ~= nil then
      content = is_output(word(payload, top.type) or "delta", payload)
    end
    if is_failure(payload, name, top) then
      seen.failed, content = true, false
      seen.blames_request = seen.blames_request or blames_request(payload, name, top)
    end
    if content then
      seen.events = seen.events + 1
    end
    if top ~= nil and take_usages(payload, top, seen.usage) then
      seen.usage.events, seen.reported = seen.events, true
    end
    return top ~= nil and top.choices ~= nil and find(payload, "^%[%s*%]", top.choices) ~= nil
      and is_said(payload, top.usage) and not is_said(payload, top.error)
  elseif content then
    seen.events = seen.events + 1
  end
end

-- The beginning of a stream without its byte order mark.
local function unmarked(text)
  return sub(text, 1, 3) == BYTE_ORDER_MARK and sub(text, 4) or text
end

-- Name and data of an event, and the lines of data when there are several.
local function fields(event, returns)
  if not returns then
    local name, from = nil, match(event, "^data:()")
    if from == nil then
      name, from = match(event, "^event: ?([^\n]*)\ndata:()")
    end
    if from ~= nil then
      local stop = find(event, "\n", from, true) or #event + 1
      if stop >= #event - 1 then
        return name, sub(event, from, stop - 1)
      end
    end
  end
  local name, lines = nil, {}
  for line in event:gmatch("[^\r\n]+") do
    local field, value = match(line, "^([^:]*):? ?(.*)$")
    if field == "data" then
      lines[#lines + 1] = value
    elseif field == "event" then
      name = value
    end
  end
  return name, table.concat(lines, "\n"), lines
end

-- An event without a line of its data.
local function without(event, line)
  local first, last = find(event, "data: " .. line, 1, true)
  if first == nil then
    first, last = find(event, "data:" .. line, 1, true)
  end
  return sub(event, 1, first - 1) .. sub(event, match(event, "^\r?\n?()", last + 1))
end

-- Takes a whole event of a stream into account; gives of it what is for a client that did not ask for
-- usage. `returns`: lines may end with a carriage return.
local function read_event(seen, event, returns)
  local left = event
  if seen.first then
    seen.first, event = false, unmarked(event)
  end
  local name, data, lines = fields(event, returns)
  if name == "" or name == "message" then
    name = nil -- what an event without a name has
  end
  if not find(data, "%S") then
    return left
  end
  if lines ~= nil and #lines > 1 and object(data) == nil then
    for _, line in ipairs(lines) do
      if object(line) ~= nil and read_document(seen, name, line) then
        left = without(left, line)
      end
    end
  elseif not find(data, "^%s*%[DONE%]%s*$") and read_document(seen, name, data) then
    left = ""
  end
  return left
end

-- Takes what follows the last empty line of a stream into account: an event, if it is whole. Gives
-- what `read_event` does.
local function read_rest(seen, rest, returns)
  local _, data = fields(seen.first and unmarked(rest) or rest, returns)
  if object(data) ~= nil or find(data, "\n", 1, true) then
    return read_event(seen, rest, returns)
  end
  return rest
end

-- The last byte of the empty line that ends the event at `from`; nil when it has not come yet.
-- `returns`: lines may end with a carriage return, alone or before a newline.
local function event_end(text, from, returns)
  if not returns then
    local at = find(text, "\n\n", from, true)
    return at and at + 1
  end
  while true do
    local at = find(text, "[\r\n]", from)
    if at == nil then
      return nil
    end
    local following = at + 1
    if byte(text, at) == RETURN and byte(text, following) == NEWLINE then
      following = following + 1
    end
    local sign = byte(text, following)
    if sign == NEWLINE then
      return following
    end
    if sign == RETURN then
      return byte(text, following + 1) == NEWLINE and following + 1 or following
    end
    if sign == nil then
      return nil
    end
    from = following
  end
end
