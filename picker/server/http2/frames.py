"""What HTTP/2 (RFC 9113) and gRPC look like on the wire. Constants have the RFC's names."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final
from urllib.parse import quote

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_SIZE: Final = 16_384
INITIAL_WINDOW: Final = 65_535
MAX_WINDOW: Final = (1 << 31) - 1
MAX_STREAM: Final = (1 << 31) - 1

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME: Final = 5


class ErrorCode(IntEnum):
    """Why a stream or the connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    ENHANCE_YOUR_CALM = 11


class Status(IntEnum):
    """gRPC's status codes, as far as we send them."""

    OK = 0
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13


class BrokenError(Exception):
    """The peer breaks the protocol; the connection ends."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class RefusedError(Exception):
    """What comes on a call cannot be served; the call ends."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


FRAME: Final = struct.Struct(">IBI")
"""Length and type as one number, flags, stream."""
PREFIX: Final = struct.Struct(">BI")
"""gRPC: compressed or not, length of the message."""
MESSAGE_FRAME: Final = struct.Struct(">IBIBI")
"""A DATA frame that holds one message begins so."""
SETTING: Final = struct.Struct(">HI")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A whole frame."""
    return FRAME.pack(len(payload) << 8 | kind, flags, stream) + payload


def number(value: int) -> bytes:
    """As RST_STREAM, GOAWAY and WINDOW_UPDATE have it."""
    return value.to_bytes(4, "big")


def unpadded(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where a padded payload begins and ends. Raises BrokenError."""
    if at == end:
        raise BrokenError(ErrorCode.FRAME_SIZE_ERROR, "padding without its length")
    start, end = at + 1, end - data[at]
    if start > end:
        raise BrokenError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return start, end


# Headers: literals that enter no table, and an entry of the static one (RFC 7541).


def _literal(name: bytes, value: bytes) -> bytes:
    """Both parts below 127 bytes."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


RESPONSE: Final = b"\x88" + _literal(b"content-type", b"application/grpc")
""":status 200 is entry 8."""
_OK: Final = _literal(b"grpc-status", b"0")
_MAX_REASON: Final = 126


def trailers_of(status: Status, reason: str, *, begun: bool) -> bytes:
    """The end of a call; with the response's headers where these were not sent (``begun``)."""
    block = b"" if begun else RESPONSE
    block += _OK if status is Status.OK else _literal(b"grpc-status", b"%d" % status)
    if reason:
        text = quote(reason, safe=" ,.:;()'/").encode()
        block += _literal(b"grpc-message", text[:_MAX_REASON])
    return block
