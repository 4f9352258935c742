"""Runs the Lua filter in LuaJIT, as Envoy has it, with a handle of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from google.protobuf.struct_pb2 import Value
from lupa.luajit21 import LuaRuntime

from gateway.envoy.filters import lua_source
from picker.server.access_log import streamed_events

Ends = Literal["empty", "data", "trailers"]
"""How the last of a body comes: as an empty message (HTTP/1), with its data (HTTP/2), or followed
by trailers."""

_PROGRESS = ("events", "bytes", "rate")
_RESPOND = """
EnvoyTimestampResolution = { MICROSECOND = 1 }

-- As Envoy has it: what is written does not change with the table that it came from.
local function copy_of(value)
  if type(value) ~= "table" then
    return value
  end
  local copy = {}
  for key, one in pairs(value) do
    copy[key] = copy_of(one)
  end
  return copy
end

local function map(values, written)
  return {
    -- As Envoy has it: no value at all where there is none.
    get = function(_, key) if values[key] ~= nil then return values[key] end end,
    set = function(_, _, key, value)
      values[key] = copy_of(value)
      written(key)
    end,
    replace = function(_, key, value) values[key] = value end,
    add = function(_, key, value) values[key] = value end,
    remove = function(_, key) values[key] = nil end,
  }
end

-- As Envoy has it: a chunk lives until the script waits for the next one.
local function chunk_of(text)
  local chunk = { dead = false, text = text }
  function chunk.length(self) assert(not self.dead) return #self.text end
  function chunk.getBytes(self, at, size)
    assert(not self.dead)
    return self.text:sub(at + 1, at + size)
  end
  function chunk.setBytes(self, bytes) assert(not self.dead) self.text = bytes end
  return chunk
end

function respond(pieces, headers, decision, ends, served)
  local chunks, noted, writes, trail = {}, {["penstock.served"] = {address = served}}, {}, {}
  for index, piece in ipairs(pieces) do
    chunks[index] = chunk_of(piece)
  end
  if ends == "empty" then
    chunks[#chunks + 1] = chunk_of("")
  end
  local metadata = map(noted, function(key) writes[key] = (writes[key] or 0) + 1 end)
  local get = metadata.get
  function metadata.get(self, key)
    if key == "penstock" then return decision end
    return get(self, key)
  end
  local info = { dynamicMetadata = function() return metadata end }
  local handle = {
    headers = function() return map(headers) end,
    streamInfo = function() return info end,
    timestampString = function() return "1" end,
  }
  function handle.bodyChunks()
    local index = 0
    return function()
      local before = chunks[index]
      if index > 0 then
        trail[index] = noted.progress
      end
      if before ~= nil and (index < #chunks or ends == "trailers") then
        before.dead = true
      end
      index = index + 1
      return chunks[index]
    end
  end
  envoy_on_response(handle)
  local out = {}
  for index, chunk in ipairs(chunks) do
    out[index] = chunk.text
  end
  return out, noted, writes, trail
end
"""


class LuaFilter:
    """The filter's functions, with nothing of Envoy around them."""

    def __init__(self) -> None:
        self._lua = LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._lua.execute(lua_source().encode())
        self._lua.execute(_RESPOND.encode())
        self._respond = self._lua.globals()[b"respond"]

    events: int | None
    """Events with output of the last response, as the picker computes them; None: no stream."""
    trail: list[int]
    """The same, if the response had broken off after its first piece, its second, and so on."""
    writes: Mapping[str, int]
    """How often what was noted."""

    def respond(
        self,
        pieces: Sequence[bytes],
        kind: str,
        decision: Mapping[str, object],
        *,
        ends: Ends = "empty",
        headers: Mapping[str, str] | None = None,
        served: str = "",
    ) -> list[bytes]:
        """What goes out for each piece of a response, and for its end where that is empty.
        ``served``: the address of the replica."""
        given = {":status": "200", "content-type": kind, **(headers or {})}
        table = self._lua.table_from
        self.headers = table({_bytes(key): _bytes(value) for key, value in given.items()})
        told = self._told(decision)
        out, self.noted, writes, trail = self._respond(
            table(pieces), self.headers, told, ends.encode(), served.encode()
        )
        self.writes = {key.decode(): count for key, count in writes.items()}
        sent = list(out.values())
        self.trail = [_events(note, sent[: n + 1]) for n, note in enumerate(trail.values())]
        progress = self.noted[b"progress"]
        self.events = None if progress is None else _events(progress, sent)
        return sent

    def _told(self, value: object) -> object:
        if not isinstance(value, Mapping):
            return _bytes(value)
        return self._lua.table_from({_bytes(key): self._told(one) for key, one in value.items()})


def _bytes(value: object) -> object:
    return value.encode() if isinstance(value, str) else value


def _events(progress: Mapping[bytes, float], sent: Sequence[bytes]) -> int:
    fields = {name: Value(number_value=progress[name.encode()]) for name in _PROGRESS}
    return streamed_events(fields, sum(map(len, sent)))
