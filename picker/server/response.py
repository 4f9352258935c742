"""Reads a response as it passes: usage, stripped usage chunks.

For the standard transport; on the fast path Envoy's own filters do the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from picker.request.report import Ending
from picker.server.answers import AnswerFollower
from picker.server.events import (
    blames_request,
    documents,
    event_ends,
    is_content,
    is_failure,
    parsed,
    without,
)
from picker.server.rename import EventRenamer, JsonRenamer
from picker.server.usage import ReportedUsage, produced

_EVENT_END_BYTES: Final = 4
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""An event longer than this passes without its usage being read."""
_MAX_WHOLE_BYTES: Final = 64 * 1024
"""A JSON answer longer than this is read piece by piece, and is no error."""


class ResponseReader:
    """Feeds on body chunks, gives back what goes to the client, at once but for cut-off events of
    a stream that is stripped, and names that may have to change."""

    def __init__(
        self, headers: Mapping[str, str], *, rename: tuple[str, str] | None, strip_usage: bool
    ) -> None:
        kind = headers.get("content-type", "").lower()
        legible = headers.get("content-encoding", "identity").lower() == "identity"
        self.usage = ReportedUsage()
        self.events = 0
        """Events of a stream that carried output."""
        self.failed = False
        """The answer says that the engine failed."""
        self.blames_request = False
        """And that the request is to blame for it."""
        self._events_at_report = 0
        self._bytes = 0
        self._first = True
        self._after_return: bytes | None = None
        """Of a newline that follows, what goes out: the text before ended in a carriage return."""
        self._sse = legible and kind.startswith("text/event-stream")
        self._json = legible and not self._sse and "json" in kind
        self._strip = strip_usage and self._sse
        self._renamer: EventRenamer | JsonRenamer | None = None
        if rename is not None and (self._json or self._sse):
            self._renamer = EventRenamer(*rename) if self._sse else JsonRenamer(*rename)
        self._held = bytearray()
        self._follower: AnswerFollower | None = None

    @property
    def changes_length(self) -> bool:
        """The body may come out in another length than it came in."""
        return self._renamer is not None or self._strip

    def ending(self, reason: Ending, status: int) -> Ending:
        """The end of the request, with what the answer says. ``reason``: as it looks without."""
        came = self.events > 0 or self.usage.output_tokens is not None
        if not self._sse and not came:
            came = self._bytes > 0 or status != 200
        return answered(reason, failed=self.failed, came=came)

    def output_tokens(self, reason: Ending) -> int | None:
        """Tokens that it reported, None when it did not."""
        later = self.events - self._events_at_report
        whole = reason is Ending.OK
        return produced(self.usage.output_tokens, self.events, whole=whole, later=later)

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Bytes for the client in exchange for the next bytes of the response."""
        self._bytes += len(data)
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
            document = parsed(held) if self._follower is None else None
            self.usage.take(document)
            if is_failure("", document):
                self._fail("", document)
        else:
            left = self._event(held)  # a stream may end without an empty line
            rest = left if self._strip else b""
        if self._renamer is None:
            return rest
        return self._renamer.feed(rest) + self._renamer.rest()

    def _fail(self, name: str, document: object) -> None:
        self.failed = True
        self.blames_request = self.blames_request or blames_request(name, document)

    def _keep(self, data: bytes) -> None:
        if self._follower is not None:
            self._follower.feed(data)
            return
        self._held += data
        if len(self._held) > _MAX_WHOLE_BYTES:
            self._follower = AnswerFollower(self._reported)
            self._follower.feed(bytes(self._held))
            self._held.clear()

    def _reported(self, key: str, text: bytes) -> None:
        self.usage.take({key: parsed(text)})

    def _events(self, data: bytes) -> bytes:
        out = bytearray()
        came = data
        if self._after_return is not None and data:
            if data.startswith(b"\n"):
                data = data[1:]
                out += self._after_return
            self._after_return = None
        searched = max(0, len(self._held) - _EVENT_END_BYTES)
        self._held += data
        start = 0
        for stop in event_ends(self._held, searched):
            left = self._event(bytes(self._held[start:stop]))
            out += left
            start = stop
            if stop == len(self._held) and self._held.endswith(b"\r"):
                self._after_return = b"\n" if left else b""
        del self._held[:start]
        if len(self._held) > _MAX_HELD_BYTES:
            self._event(bytes(self._held))
            out += self._held
            self._held.clear()
        return bytes(out) if self._strip else came

    def _event(self, event: bytes) -> bytes:
        """Reads an event; gives of it what is for the client."""
        hides = False
        legible = event
        if self._first and event:
            self._first = False
            legible = event.removeprefix(_BYTE_ORDER_MARK)
        for name, document in documents(legible):
            if is_failure(name, document):
                self._fail(name, document)
            elif is_content(name, document):
                self.events += 1
            if self.usage.take(document):
                self._events_at_report = self.events
            hides = hides or (self._strip and _is_usage_only(document))
        return without(event, _is_usage_only) if hides else event


def answered(reason: Ending, *, failed: bool, came: bool) -> Ending:
    """The end of a request, with what its answer says: that the engine ``failed``, although the
    status said otherwise; and whether anything ``came``, of a stream: output, or usage. A client
    that leaves at an error did not break it off."""
    if failed and reason in {Ending.OK, Ending.CLIENT_ABORTED}:
        return Ending.ENGINE_ERROR
    return Ending.NO_OUTPUT if reason is Ending.OK and not came else reason


def _is_usage_only(document: object) -> bool:
    return (
        isinstance(document, dict)
        and document.get("choices") == []
        and bool(document.get("usage"))
        and not document.get("error")
    )
