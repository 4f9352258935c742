"""What comes, cut into frames. A header block is passed over: see `connection`."""

from __future__ import annotations

from typing import Final, Protocol

from picker.server.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    FRAME,
    HEADERS,
    MAX_FRAME_SIZE,
    MAX_STREAM,
    PREFACE,
    SETTINGS,
    BrokenError,
    ErrorCode,
)

MAX_HEADER_BLOCK: Final = 64 << 10


class FrameSink(Protocol):
    """Takes frames. Each method may raise BrokenError."""

    def take_data(self, flags: int, stream: int, data: bytes, at: int, end: int) -> None:
        """A DATA frame: its payload is ``data[at:end]``."""

    def take_headers(self, flags: int, stream: int, data: bytes, at: int, end: int) -> None:
        """A HEADERS frame, likewise. What continues it does not come here."""

    def take_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame of any other type, known or not."""


class FrameReader:
    """Of one connection. Sizes are in bytes."""

    def __init__(self) -> None:
        self._rest = b""
        """Less than a frame."""
        self._greeted = False
        self._due: tuple[int, int] | None = (SETTINGS, 0)
        """Type and stream of the only frame that may come next."""
        self._block = 0
        """Size of the header block that is coming."""

    def read(self, data: bytes, sink: FrameSink) -> None:
        """Hand on all frames that are whole now. Raises BrokenError, and is of no use then."""
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        if not self._greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise BrokenError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            if size < len(PREFACE):
                self._rest = data
                return
            at, self._greeted = len(PREFACE), True
        while size - at >= FRAME.size:
            length_and_kind, flags, stream = FRAME.unpack_from(data, at)
            length = length_and_kind >> 8
            if length > MAX_FRAME_SIZE:
                raise BrokenError(ErrorCode.FRAME_SIZE_ERROR, "a frame is too long")
            start = at + FRAME.size
            end = start + length
            if end > size:
                break
            kind = length_and_kind & 0xFF
            stream &= MAX_STREAM  # without its reserved bit
            if self._due is not None:
                self._check_due(kind, flags, stream)
            if kind == DATA:
                sink.take_data(flags, stream, data, start, end)
            elif kind == HEADERS:
                sink.take_headers(flags, stream, data, start, end)
                if not flags & END_HEADERS:
                    self._due, self._block = (CONTINUATION, stream), length
            elif kind == CONTINUATION:
                self._continue(flags, length)
            else:
                sink.take_other(kind, flags, stream, data[start:end])
            at = end
        self._rest = data[at:]

    def _check_due(self, kind: int, flags: int, stream: int) -> None:
        greets = kind == SETTINGS
        if (kind, stream) != self._due or (greets and flags & ACK):
            raise BrokenError(ErrorCode.PROTOCOL_ERROR, "another frame was due")
        if greets:
            self._due = None

    def _continue(self, flags: int, length: int) -> None:
        if self._due is None:
            raise BrokenError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += FRAME.size + length
        if self._block > MAX_HEADER_BLOCK:
            raise BrokenError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & END_HEADERS:
            self._due = None
