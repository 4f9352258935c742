"""Reads a response as it passes: token usage, stripped usage chunks, renamed models.

For the standard transport; on the fast path Envoy's own filters do the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")
_USAGE_ONLY: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_DONE: Final = b"[DONE]"
_MAX_JSON_BYTES: Final = 8 * 1024 * 1024
"""A longer answer that is not a stream passes without its usage being read."""


class ResponseReader:
    """Feeds on body chunks, gives back what goes to the client."""

    def __init__(
        self, content_type: str, *, rename: tuple[str, str] | None, strip_usage: bool
    ) -> None:
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.events = 0
        self._sse = content_type.startswith("text/event-stream")
        self._json = not self._sse and "json" in content_type
        self._strip = strip_usage and self._sse
        self._rename = _Renamer(*rename) if rename is not None else None
        self._held = bytearray()
        self._overlong = False

    @property
    def changes_length(self) -> bool:
        """The body may come out in another length than it came in."""
        return self._rename is not None and (self._json or self._sse)

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Bytes for the client; an unfinished event waits only when events may change."""
        if self._sse:
            return self._feed_events(data, end=end)
        if not self._json:
            return data
        if self._rename is not None:
            self._held += data
            if not end:
                return b""
            self.finish()
            return self._rename(bytes(self._held))
        if not self._overlong:
            self._held += data
            if len(self._held) > _MAX_JSON_BYTES:
                self._overlong = True
                self._held.clear()
        if end:
            self.finish()
        return data

    def finish(self) -> None:
        """The response is over; reads usage from a whole JSON answer."""
        if self._json and self._held and self.input_tokens is None:
            self._read(bytes(self._held))

    def _feed_events(self, data: bytes, *, end: bool) -> bytes:
        edits = self._strip or self._rename is not None
        self._held += data
        out = bytearray()
        start = 0
        for match in _EVENT_END.finditer(self._held):
            event = bytes(self._held[start : match.end()])
            start = match.end()
            out += self._event(event)
        del self._held[:start]
        if not edits:
            return data
        if end:
            out += self._held
            self._held.clear()
        return bytes(out)

    def _event(self, event: bytes) -> bytes:
        lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
        payload = b"\n".join(lines)
        if not payload:
            return event
        has_usage = b'"usage"' in payload
        if has_usage:
            self._read(payload)
            if self._strip and _USAGE_ONLY.search(payload):
                return b""
        if payload != _DONE:
            self.events += 1
        if self._rename is not None and b'"model"' in event:
            return self._rename(event)
        return event

    def _read(self, payload: bytes) -> None:
        try:
            document = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return  # passes unchanged and counts as no usage
        if not isinstance(document, dict):
            return
        for holder in (document, document.get("response"), document.get("message")):
            usage = holder.get("usage") if isinstance(holder, dict) else None
            if isinstance(usage, dict):
                self._take(usage)

    def _take(self, usage: Mapping[str, object]) -> None:
        self.input_tokens = _count(usage, "prompt_tokens", "input_tokens", self.input_tokens)
        self.output_tokens = _count(usage, "completion_tokens", "output_tokens", self.output_tokens)
        for key in ("prompt_tokens_details", "input_tokens_details"):
            details = usage.get(key)
            if isinstance(details, dict):
                self.cached_tokens = _count(details, "cached_tokens", "", self.cached_tokens)
        self.cached_tokens = _count(usage, "cache_read_input_tokens", "", self.cached_tokens)


def _count(usage: Mapping[str, object], name: str, other: str, old: int | None) -> int | None:
    value = usage.get(name, usage.get(other))
    return value if isinstance(value, int) and not isinstance(value, bool) else old


class _Renamer:
    def __init__(self, served: str, asked: str) -> None:
        name = re.escape(orjson.dumps(served))
        self._pattern = re.compile(rb'("model"\s*:\s*)' + name)
        self._replacement = orjson.dumps(asked)

    def __call__(self, text: bytes) -> bytes:
        return self._pattern.sub(lambda match: match.group(1) + self._replacement, text)
