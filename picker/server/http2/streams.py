"""Which streams of a connection are idle, open and over (RFC 9113, section 5.1)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from picker.server.http2.call import Call
from picker.server.http2.frames import BrokenError, ErrorCode

MAX_CONCURRENT_STREAMS: Final = 1024
_REMEMBERED: Final = 1024
"""Streams that we have ended and the peer has not."""


class Streams:
    """Of one connection. The peer opens those of odd numbers, in their order."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        """Those that are open, by stream."""
        self.last_accepted = 0
        self._last_seen = 0
        self._ended: OrderedDict[int, None] = OrderedDict()
        self.most = 16 * MAX_CONCURRENT_STREAMS
        """That can be open at a time: more until the peer knows how many we take."""

    def limit(self) -> None:
        """The peer knows it from now on."""
        self.most = MAX_CONCURRENT_STREAMS

    def begins(self, stream: int) -> bool:
        """HEADERS have come on a stream that is not open: whether they open it, or belong to one
        that we have ended. Raises BrokenError."""
        if stream > self._last_seen and stream & 1:
            self._last_seen = stream
            return True
        if not self.may_seem_open(stream):
            raise BrokenError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream}")
        return False

    def accept(self, call: Call) -> None:
        """A stream is open."""
        self.last_accepted = call.id
        self.calls[call.id] = call

    def ended_here(self, stream: int) -> None:
        """We have ended a stream that the peer has not."""
        self._ended[stream] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def check_begun(self, stream: int) -> None:
        """Another frame has come on a stream that is not open. Raises BrokenError if it is idle."""
        if stream > self._last_seen or not stream & 1:
            raise BrokenError(ErrorCode.PROTOCOL_ERROR, f"stream {stream} is idle")

    def may_seem_open(self, stream: int) -> bool:
        """The peer may not know yet that it is over."""
        return stream in self._ended
