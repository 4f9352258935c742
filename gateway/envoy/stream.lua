-- Reads a stream in the pieces in which it comes, and makes of each what its client gets. Put behind
-- tokens.lua, rename.lua and response_ids.lua.

local MAX_HELD_BYTES = 8388608 -- an event that is longer passes without being read

-- What is read goes into `seen`. `strip`: usage that the client did not ask for is taken out. `write`:
-- puts other ids into events; nil where they stay.
local function stream_reader(seen, strip, write, renamer)
  local by_event = strip or write ~= nil -- the client gets whole events only
  local marks = new_marks()
  local held, held_bytes = {}, 0 -- of an event that has not ended
  local returns = false -- lines may end with a carriage return
  local unread = false -- the beginning of an event has passed unread
  local after_return = nil -- the text before ended in a carriage return: what a newline becomes

  -- Reads the whole events at the beginning of a text. Gives where the next one begins, and what is
  -- left of them for the client: nil when that is all.
  local function read_events(text)
    clear(marks)
    local from, kept, out = 1, 1, nil
    local stop = event_end(text, from, returns)
    while stop ~= nil do
      local token = nil
      if not returns then
        token = has_token(text, from, stop, marks)
      end
      if token == nil then
        local event = sub(text, from, stop)
        local left = read_event(seen, event, returns)
        if strip and left ~= event then
          out = out or {}
          out[#out + 1] = sub(text, kept, from - 1)
          out[#out + 1] = left
          kept = stop + 1
        end
        if stop == #text and byte(text, stop) == RETURN then
          after_return = strip and left == "" and "" or "\n"
        end
      else
        seen.first = false
        if token then
          seen.events = seen.events + 1
        end
      end
      from = stop + 1
      stop = event_end(text, from, returns)
    end
    if out ~= nil then
      out[#out + 1] = sub(text, kept, from - 1)
      return from, table.concat(out)
    end
    return from, nil
  end

  -- Takes the next piece; gives what the client gets for it.
  local function take(came)
    local whole, out = came, ""
    if after_return ~= nil then
      if byte(came, 1) == NEWLINE then
        came, out = sub(came, 2), after_return
      end
      after_return = nil
    end
    local text, begins, ends = came, held_bytes == 0, false
    returns = returns or find(came, "\r", 1, true) ~= nil
    if not begins then
      held[#held + 1] = came
      held_bytes = held_bytes + #came
      local ended = find(came, "\n", 1, true) or returns and find(came, "\r", 1, true)
      text = ended and table.concat(held) or nil
    end
    if text ~= nil then
      local from, left = read_events(text)
      ends = from > #text
      if not ends then
        local rest = sub(text, from)
        held, held_bytes = {rest}, #rest
        left = left or sub(text, 1, from - 1)
      else
        held_bytes = 0
        if not begins then
          held = {}
        end
        left = left or text
      end
      out = out == "" and left or out .. left
    end
    if held_bytes > MAX_HELD_BYTES then
      out = out .. table.concat(held)
      held, held_bytes, unread = {}, 0, true
    end
    if not by_event then
      out = whole
    elseif write ~= nil then
      out = write(out)
    end
    if renamer == nil or out == "" then
      return out
    end
    if not returns and not unread and (by_event or begins and ends) then
      return renamer.pass(out)
    end
    return renamer.feed(out)
  end

  -- The stream is over. Gives what is left for the client: an event without its empty line goes out
  -- as it is.
  local function finish()
    local rest = read_rest(seen, table.concat(held), returns)
    if write ~= nil then
      rest = write(rest)
    end
    return by_event and rest or ""
  end

  return {take = take, finish = finish}
end
