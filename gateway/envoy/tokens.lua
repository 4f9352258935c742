-- The usual events of a stream: each carries a token of output, and nothing that has to be parsed.
-- They are known where they stand in a text, by plain finds that pass over the text once. All others
-- are for events.lua. Put behind it and answers.lua.

local SPACE, LETTER_E = 32, 101

-- Where the next signs stand in a text: `usage` and so on are never before the place asked for.
local function new_marks()
  return {usage = 0, error = 0, choices = 0, role = 0, signature = 0}
end

-- Another text begins.
local function clear(marks)
  marks.usage, marks.error, marks.choices, marks.role, marks.signature = 0, 0, 0, 0, 0
end

-- Where a sign next stands, from `from` on: `tail` is looked for, and `head` before it, because
-- quotation marks and the letter e stand everywhere in JSON.
local function place_of(text, head, tail, from)
  local at = find(text, tail, from, true)
  while at ~= nil and sub(text, at - #head, at - 1) ~= head do
    at = find(text, tail, at + 1, true)
  end
  return at or NEVER
end

-- The same for a key that says something: not with the value null.
local function place_of_said(text, head, tail, from)
  local at = place_of(text, head, tail, from)
  while at ~= NEVER do
    local colon = at + #tail
    local value = byte(text, colon + 1) == SPACE and colon + 2 or colon + 1
    if byte(text, colon) ~= COLON or sub(text, value, value + 3) ~= "null" then
      return at
    end
    at = place_of(text, head, tail, value)
  end
  return NEVER
end

-- Whether the chat or completion chunk from `from` to `stop` has a choice with output; nil where that
-- has to be looked into.
local function chunk_has_token(text, from, stop, marks)
  local choices = marks.choices
  if choices < from then
    choices = place_of(text, '"', 'choices"', from)
    marks.choices = choices
  end
  if choices > stop then
    return nil
  end
  local colon = choices + 8
  local list = byte(text, colon + 1) == SPACE and colon + 2 or colon + 1
  if byte(text, colon) ~= COLON or byte(text, list) ~= LIST or byte(text, list + 1) ~= OPEN then
    return nil
  end
  if marks.role < choices then
    marks.role = place_of(text, '"', 'role"', choices)
  end
  if marks.role < stop then
    return nil
  end
  return true
end

-- The same for an event with a name.
local function named_has_token(text, from, stop, name, marks)
  if name == "" or name == "message" or name == "response.incomplete" or FAILURES[name] then
    return nil
  end
  if marks.choices < from then
    marks.choices = place_of(text, '"', 'choices"', from)
  end
  if marks.choices < stop then
    return nil
  end
  if sub(name, -5) ~= "delta" or name == "message_delta" then
    return false
  end
  if marks.signature < from then
    marks.signature = place_of(text, '"', 'signature_delta"', from)
  end
  if marks.signature < stop then
    return nil
  end
  return true
end

-- Whether the event from `from` to `stop` has a token; nil where it has to be taken apart. Lines end
-- with a newline.
local function has_token(text, from, stop, marks)
  if marks.usage < from then
    marks.usage = place_of_said(text, '"', 'usage"', from)
  end
  if marks.error < from then
    marks.error = place_of_said(text, '"e', 'rror"', from)
  end
  if marks.usage < stop or marks.error < stop then
    return nil
  end
  local line_end, name = find(text, "\n", from, true), nil
  local data = from
  if byte(text, from) == LETTER_E then
    if sub(text, from, from + 5) ~= "event:" then
      return nil
    end
    local begins = byte(text, from + 6) == SPACE and from + 7 or from + 6
    name, data = sub(text, begins, line_end - 1), line_end + 1
    line_end = find(text, "\n", data, true)
  end
  if line_end ~= stop - 1 or sub(text, data, data + 4) ~= "data:" then
    return nil
  end
  local value = byte(text, data + 5) == SPACE and data + 6 or data + 5
  if byte(text, value) ~= OPEN then
    return nil
  end
  if name ~= nil then
    return named_has_token(text, from, stop, name, marks)
  end
  return chunk_has_token(text, from, stop, marks)
end
