"""Reads a response as it passes: usage, stripped usage chunks.

For the standard transport; on the fast path Envoy's own filters do the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

from picker.server.rename import EventRenamer, JsonRenamer
from picker.server.usage import ReportedUsage, is_content

_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")
_EVENT_END_BYTES: Final = 4
_DONE: Final = b"[DONE]"
_MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""An answer or event longer than this passes without its usage being read."""


class ResponseReader:
    """Feeds on body chunks, gives back what goes to the client, at once but for cut-off events of
    a stream that is stripped, and names that may have to change."""

    def __init__(
        self, headers: Mapping[str, str], *, rename: tuple[str, str] | None, strip_usage: bool
    ) -> None:
        kind = headers.get("content-type", "").lower()
        legible = headers.get("content-encoding", "identity") == "identity"
        self.usage = ReportedUsage()
        self.events = 0
        """Events of a stream that carried output."""
        self._sse = legible and kind.startswith("text/event-stream")
        self._json = legible and not self._sse and "json" in kind
        self._strip = strip_usage and self._sse
        self._renamer: EventRenamer | JsonRenamer | None = None
        if rename is not None and (self._json or self._sse):
            self._renamer = EventRenamer(*rename) if self._sse else JsonRenamer(*rename)
        self._held = bytearray()
        self._overlong = False

    @property
    def changes_length(self) -> bool:
        """The body may come out in another length than it came in."""
        return self._renamer is not None or self._strip

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Bytes for the client in exchange for the next bytes of the response."""
        if self._sse:
            data = self._events(data)
        elif self._json:
            self._keep(data)
        if self._renamer is not None:
            data = self._renamer.feed(data)
        return data + self.finish() if end else data

    def finish(self) -> bytes:
        """The response is over; gives what was still held of it. Reads the usage of a JSON
        answer, which is known only now."""
        held = bytes(self._held)
        self._held.clear()
        rest = b""
        if self._json:
            self.usage.take(_parsed(held))
        elif self._event(held) and self._strip:  # a stream may end without an empty line
            rest = held
        if self._renamer is None:
            return rest
        return self._renamer.feed(rest) + self._renamer.rest()

    def _keep(self, data: bytes) -> None:
        if not self._overlong:
            self._held += data
            self._overlong = len(self._held) > _MAX_HELD_BYTES
        if self._overlong:
            self._held.clear()

    def _events(self, data: bytes) -> bytes:
        searched = max(0, len(self._held) - _EVENT_END_BYTES)
        self._held += data
        out = bytearray()
        start = 0
        for match in _EVENT_END.finditer(self._held, searched):
            event = bytes(self._held[start : match.end()])
            if self._event(event):
                out += event
            start = match.end()
        del self._held[:start]
        if len(self._held) > _MAX_HELD_BYTES:
            self._event(bytes(self._held))
            out += self._held
            self._held.clear()
        return bytes(out) if self._strip else data

    def _event(self, event: bytes) -> bool:
        """Reads an event; False when it is not for the client."""
        name, lines = b"", []
        for line in event.splitlines():
            if line.startswith(b"data:"):
                lines.append(line[5:].strip())
            elif line.startswith(b"event:"):
                name = line[6:].strip()
        payload = b"\n".join(lines)
        if payload and payload != _DONE:
            document = _parsed(payload)
            self.usage.take(document)
            if self._strip and _is_usage_only(document):
                return False
            self.events += is_content(name.decode("utf-8", "replace"), document)
        return True


def _parsed(text: bytes) -> object:
    """None for what is not JSON: it passes, and reports nothing."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _is_usage_only(document: object) -> bool:
    return (
        isinstance(document, dict)
        and document.get("choices") == []
        and bool(document.get("usage"))
        and "error" not in document
    )
