"""Reads a response as it passes: usage, stripped usage chunks, renamed models.

For the standard transport; on the fast path Envoy's own filters do the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

from picker.server.usage import ReportedUsage, is_content

_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")
_EVENT_END_BYTES: Final = 4
_DONE: Final = b"[DONE]"
_MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""An answer or event longer than this passes without its usage being read."""


class ResponseReader:
    """Feeds on body chunks, gives back what goes to the client, at once but for cut-off events
    and names that may have to change."""

    def __init__(
        self, headers: Mapping[str, str], *, rename: tuple[str, str] | None, strip_usage: bool
    ) -> None:
        kind = headers.get("content-type", "")
        legible = headers.get("content-encoding", "identity") == "identity"
        self.usage = ReportedUsage()
        self.events = 0
        """Events of a stream that carried output."""
        self._sse = legible and kind.startswith("text/event-stream")
        self._json = legible and not self._sse and "json" in kind
        self._strip = strip_usage and self._sse
        changes = rename is not None and (self._json or self._sse)
        self._renamer = Renamer(*rename) if rename is not None and changes else None
        self._held = bytearray()
        self._overlong = False

    @property
    def changes_length(self) -> bool:
        """The body may come out in another length than it came in."""
        return self._renamer is not None or self._strip

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Bytes for the client in exchange for the next bytes of the response."""
        if self._sse:
            return self._events(data, end=end)
        if not self._json:
            return data
        if not self._overlong:
            self._held += data
            self._overlong = len(self._held) > _MAX_HELD_BYTES
        if self._overlong:
            self._held.clear()
        if end:
            self.finish()
        return data if self._renamer is None else self._renamer.feed(data, end=end)

    def finish(self) -> bytes:
        """The response is over; gives what was still held of it. Reads the usage of a JSON
        answer, which is known only now."""
        rest = bytes(self._held)
        self._held.clear()
        if self._json:
            self.usage.take(_parsed(rest))
            return self._renamer.flush() if self._renamer is not None else b""
        last = self._event(rest)  # a stream may end without an empty line
        return last if self.changes_length else b""

    def _events(self, data: bytes, *, end: bool) -> bytes:
        searched = max(0, len(self._held) - _EVENT_END_BYTES)
        self._held += data
        out = bytearray()
        start = 0
        for match in _EVENT_END.finditer(self._held, searched):
            out += self._event(bytes(self._held[start : match.end()]))
            start = match.end()
        del self._held[:start]
        if end or len(self._held) > _MAX_HELD_BYTES:
            out += self.finish()
        return bytes(out) if self.changes_length else data

    def _event(self, event: bytes) -> bytes:
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
                return b""
            self.events += is_content(name.decode("utf-8", "replace"), document)
        return event if self._renamer is None else self._renamer.whole(event)


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


class Renamer:
    """Puts the model's name as the client gave it in place of the one that served, where an event
    or answer first has it: further ones are content."""

    def __init__(self, served: str, asked: str) -> None:
        name = orjson.dumps(served)
        self._pattern = re.compile(rb'("model"\s*:\s*)' + re.escape(name))
        self._replacement = orjson.dumps(asked)
        self._longest = len(name) + 32
        """A match with more white space than that is not looked for at chunk boundaries."""
        self._held = b""
        self._done = False

    def whole(self, text: bytes) -> bytes:
        """A text that ends on no name."""
        return self._pattern.sub(self._replaced, text, count=1)

    def _replaced(self, match: re.Match[bytes]) -> bytes:
        return match.group(1) + self._replacement

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """The next bytes of a text; holds back what may be the beginning of a match."""
        text = self._held + data
        self._held = b""
        if self._done:
            return text
        text, renamed = self._pattern.subn(self._replaced, text, count=1)
        self._done = bool(renamed)
        if end or self._done:
            return text
        cut = _BEGINNING.search(text, max(0, len(text) - self._longest))
        if cut is None:
            return text
        self._held = text[cut.start() :]
        return text[: cut.start()]

    def flush(self) -> bytes:
        """What is still held back, at the end."""
        rest, self._held = self._held, b""
        return rest


_BEGINNING: Final = re.compile(
    rb'"(?:m(?:o(?:d(?:e(?:l(?:"\s*(?::\s*(?:"(?:[^"\\]|\\.)*\\?)?)?)?)?)?)?)?)?\Z', re.DOTALL
)
"""The end of a text that may go on to ``"model": "name"``."""
