"""HTTP/2 (RFC 9113) for gRPC, the server's side of one connection, without I/O: bytes in, messages
out.

No header is decoded. The peer is our own Envoy (nobody else may enter the socket's folder), it
calls one method, and what it asks stands in its messages: no header or trailer could change what
we do. A header block is skipped as a whole, which is safe because HPACK's state is only needed by
who reads headers: we tell the peer to keep no table, and send literals and entries of the static
table ourselves. `grpc-timeout` is not needed: a client that gives up resets its stream. Nor is
`grpc-encoding`: a compressed message is refused.

Sizes are in bytes. Names of constants are those of the RFC.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import ClassVar, Final, Protocol, TypeAlias
from urllib.parse import quote

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_SIZE: Final = 16_384
MAX_CONCURRENT_STREAMS: Final = 1024
STREAM_WINDOW: Final = 16 << 20
"""What may come on a stream at once. A message may be longer: it is taken as it comes."""
CONNECTION_WINDOW: Final = 1 << 30
MAX_HEADER_BLOCK: Final = 64 << 10
MAX_SETTINGS_IN_A_READ: Final = 100
"""Each may change the window of every stream."""

_MAX_WINDOW: Final = (1 << 31) - 1
_INITIAL_WINDOW: Final = 65_535
_TURN: Final = 4 * MAX_FRAME_SIZE
"""Most of one waiting message before others have their turn."""
_REMEMBERED: Final = 1024
"""Streams that we have ended and the peer has not."""

_DATA: Final = 0
_HEADERS: Final = 1
_PRIORITY: Final = 2
_RST_STREAM: Final = 3
_SETTINGS: Final = 4
_PUSH_PROMISE: Final = 5
_PING: Final = 6
_GOAWAY: Final = 7
_WINDOW_UPDATE: Final = 8
_CONTINUATION: Final = 9

_ACK: Final = 0x1
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_HAS_PRIORITY: Final = 0x20

_HEADER_TABLE_SIZE: Final = 1
_ENABLE_PUSH: Final = 2
_MAX_STREAMS: Final = 3
_INITIAL_WINDOW_SIZE: Final = 4
_MAX_FRAME: Final = 5


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


Buffer: TypeAlias = bytes | memoryview
Message: TypeAlias = bytes | bytearray
"""Of gRPC, without its prefix."""


class _Over(Enum):
    """How a call's messages end."""

    HALF_CLOSED = "the client sends nothing more"
    CANCELLED = "nobody waits for an answer any more"


class Receiver(Protocol):
    """Who serves a call."""

    def message(self, message: Message) -> None:
        """The client's next message."""

    def half_closed(self) -> None:
        """The client sends nothing more."""

    def cancelled(self) -> None:
        """The client does not wait any more, or is gone. Nothing can be sent."""


class _ConnectionError(Exception):
    """The peer breaks the protocol; the connection ends."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


_FRAME: Final = struct.Struct(">IBI")
"""Length and type as one number, flags, stream."""
_FRAME_BYTES: Final = 9
_PREFIX: Final = struct.Struct(">BI")
"""gRPC: compressed or not, length of the message."""
_MESSAGE_FRAME: Final = struct.Struct(">IBIBI")
"""A DATA frame that holds one message begins so."""
_SETTING: Final = struct.Struct(">HI")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) << 8 | kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that enters no table (RFC 7541, section 6.2.2); both parts below 127 bytes."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


_RESPONSE: Final = b"\x88" + _literal(b"content-type", b"application/grpc")
""":status 200 (the static table's entry 8)."""
_OK: Final = _literal(b"grpc-status", b"0")
_MAX_REASON: Final = 126


class Call:
    """One stream: a gRPC call. What is not for receivers is the connection's."""

    __slots__ = (
        "_connection",
        "begun",
        "credit",
        "half_closed",
        "id",
        "is_open",
        "missing",
        "partial",
        "prefix",
        "receiver",
        "trailers",
        "unsent",
        "window",
    )

    def __init__(self, connection: Connection, id_: int, window: int) -> None:
        self._connection = connection
        self.id = id_
        self.is_open = True
        """Something can be sent."""
        self.half_closed = False
        """The client sends nothing more."""
        self.receiver: Receiver | None = None
        self.window = window
        """What the client takes; below 0 after it has lowered its initial window."""
        self.credit = STREAM_WINDOW
        """What we take."""
        self.prefix = b""
        """Of a message, as far as it has come."""
        self.partial = bytearray()
        """A message, as far as it has come."""
        self.missing = 0
        """What it lacks."""
        self.begun = False
        """The response's headers were sent."""
        self.unsent: deque[memoryview] = deque()
        """Parts of messages that wait for a window."""
        self.trailers: bytes | None = None
        """To be sent after them."""

    @property
    def is_sent(self) -> bool:
        """All messages are in the connection's output."""
        return not self.unsent

    def send(self, message: bytes, rest: bytes = b"") -> None:
        """Send one message; ``rest`` is its end, which is not copied."""
        if self.is_open:
            self._connection.send(self, message, rest)

    def finish(self, status: Status = Status.OK, reason: str = "") -> None:
        """End the call after what was sent."""
        if self.is_open:
            self._connection.finish(self, status, reason)

    def cancel(self) -> None:
        """End the call at once; its receiver hears of it, and what is unsent is lost."""
        if self.is_open:
            self._connection.cancel(self)


class Connection:
    """Call `receive` with what comes, and write `output` after it and after whatever a receiver
    has sent meanwhile."""

    def __init__(self, accept: Callable[[Call], Receiver], *, max_message: int) -> None:
        """``accept`` gives the receiver of a new call. A longer message than ``max_message`` is
        refused."""
        self._accept = accept
        self._max_message = max_message
        self._calls: dict[int, Call] = {}
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._last_seen = 0
        self._last_accepted = 0
        self._is_leaving = False
        self._has_failed = False
        self._rest = b""
        self._greeted = False
        self._due: tuple[int, int] | None = (_SETTINGS, 0)
        """Type and stream of the only frame that may come next."""
        self._block = 0
        """Size of the header block that is coming."""
        self._settings_in_read = 0
        self._events: list[tuple[Call, Message | _Over]] = []
        self._credit = CONNECTION_WINDOW
        self._window = _INITIAL_WINDOW
        self._initial_window = _INITIAL_WINDOW
        self._max_frame = MAX_FRAME_SIZE
        self._waiting: dict[Call, None] = {}
        """Those that have something unsent and, as far as is known, a window for it; in turn."""
        ours = (
            (_HEADER_TABLE_SIZE, 0),
            (_MAX_STREAMS, MAX_CONCURRENT_STREAMS),
            (_INITIAL_WINDOW_SIZE, STREAM_WINDOW),
        )
        self._out: list[Buffer] = [
            _frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in ours))
        ]
        self._enlarge(0, CONNECTION_WINDOW - _INITIAL_WINDOW)

    @property
    def calls(self) -> Collection[Call]:
        """Those that are open."""
        return self._calls.values()

    @property
    def is_over(self) -> bool:
        """Nothing more is to be read; close it when the output is written."""
        return self._has_failed or (self._is_leaving and not self._calls)

    # -- what comes

    def receive(self, data: bytes) -> None:
        """Read what came, then hand its messages to the receivers: those of a call that was
        cancelled in the same piece cost nothing."""
        if self._has_failed:
            return
        if self._rest:
            data = self._rest + data  # less than a frame is left over
        self._settings_in_read = 0
        try:
            self._rest = data[self._read(data) :]
        except _ConnectionError as error:
            self._fail(error)
        events, self._events = self._events, []
        for call, what in events:
            if what is _Over.CANCELLED:
                if call.receiver is not None:
                    call.receiver.cancelled()
                continue
            if not call.is_open:
                continue
            if call.receiver is None:
                call.receiver = self._accept(call)
            if isinstance(what, _Over):
                call.receiver.half_closed()
            else:
                call.receiver.message(what)

    def lost(self) -> None:
        """The connection is gone."""
        self._has_failed = True
        self._drop_calls()
        self._out.clear()

    def _read(self, data: bytes) -> int:
        """Take all whole frames; where the next one begins."""
        at, size = 0, len(data)
        if not self._greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            if size < len(PREFACE):
                return 0
            at, self._greeted = len(PREFACE), True
        while size - at >= _FRAME_BYTES:
            length_and_kind, flags, stream = _FRAME.unpack_from(data, at)
            length = length_and_kind >> 8
            if length > MAX_FRAME_SIZE:
                raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a frame is too long")
            start = at + _FRAME_BYTES
            end = start + length
            if end > size:
                break
            kind = length_and_kind & 0xFF
            stream &= _MAX_WINDOW  # without its reserved bit
            if self._due is not None and (kind, stream) != self._due:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "another frame was due")
            if kind == _DATA:
                self._data(flags, stream, data, start, end)
            elif kind == _HEADERS:
                self._headers(flags, stream, data, start, end)
            elif kind in self._OTHERS:
                self._OTHERS[kind](self, flags, stream, data[start:end])
            at = end
        return at

    # What comes is taken at once, and its windows grow again long before they are empty: nobody who
    # heeds them has to wait, and there is none that could be overrun.

    def _data(self, flags: int, stream: int, data: bytes, at: int, end: int) -> None:
        length = end - at
        self._credit -= length
        if self._credit < CONNECTION_WINDOW // 2:
            self._enlarge(0, CONNECTION_WINDOW - self._credit)
            self._credit = CONNECTION_WINDOW
        if flags & _PADDED:
            at, end = _unpadded(data, at, end)
        call = self._calls.get(stream)
        if call is None:
            self._stray(stream, ErrorCode.STREAM_CLOSED)
            return
        if call.half_closed:
            self._break(call, ErrorCode.STREAM_CLOSED)
            return
        call.credit -= length
        self._assemble(call, data, at, end)
        if flags & _END_STREAM:
            self._half_close(call)
        elif call.credit < STREAM_WINDOW // 2 and call.is_open:
            self._enlarge(stream, STREAM_WINDOW - call.credit)
            call.credit = STREAM_WINDOW

    def _assemble(self, call: Call, data: bytes, at: int, end: int) -> None:
        while at < end and call.is_open:
            if call.missing:
                stop = min(end, at + call.missing)
                call.partial += memoryview(data)[at:stop]
                call.missing -= stop - at
                at = stop
                if not call.missing:
                    self._events.append((call, call.partial))
                    call.partial = bytearray()
                continue
            stop = at + _PREFIX.size - len(call.prefix)
            prefix = call.prefix + data[at : min(stop, end)]
            if stop > end:
                call.prefix = prefix
                return
            at, call.prefix = stop, b""
            is_compressed, size = _PREFIX.unpack(prefix)
            if is_compressed:
                self._refuse(call, Status.UNIMPLEMENTED, "compressed messages are not read")
            elif size > self._max_message:
                self._refuse(call, Status.RESOURCE_EXHAUSTED, "the message is too long")
            elif size > end - at:
                call.missing = size
            else:
                self._events.append((call, data[at : at + size]))
                at += size

    def _half_close(self, call: Call) -> None:
        call.half_closed = True
        if not call.is_open:
            return
        if call.missing or call.prefix:
            self._refuse(call, Status.INTERNAL, "the message is cut off")
        else:
            self._events.append((call, _Over.HALF_CLOSED))

    def _headers(self, flags: int, stream: int, data: bytes, at: int, end: int) -> None:
        self._block = end - at
        if flags & _PADDED:
            at, end = _unpadded(data, at, end)
        if flags & _HAS_PRIORITY and end - at < 5:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
        if not flags & _END_HEADERS:
            self._due = _CONTINUATION, stream
        call = self._calls.get(stream)
        if call is None:
            if stream <= self._last_seen or not stream & 1:
                self._stray_headers(stream)
                return
            self._last_seen = stream
            if self._is_leaving or len(self._calls) >= MAX_CONCURRENT_STREAMS:
                self._end_stream(stream, ErrorCode.REFUSED_STREAM)
                return
            self._last_accepted = stream
            call = self._calls[stream] = Call(self, stream, self._initial_window)
            if flags & _END_STREAM:
                self._half_close(call)
        elif call.half_closed:
            self._break(call, ErrorCode.STREAM_CLOSED)
        elif flags & _END_STREAM:
            self._half_close(call)
        else:
            self._break(call, ErrorCode.PROTOCOL_ERROR)

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._due is None:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += _FRAME_BYTES + len(payload)
        if self._block > MAX_HEADER_BLOCK:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & _END_HEADERS:
            self._due = None

    def _stray_headers(self, stream: int) -> None:
        if stream not in self._ended:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream}")

    def _stray(self, stream: int, code: ErrorCode | None = None) -> None:
        """A frame on a stream that is not open; ``code``: such a frame is an error then, unless
        the peer may not know it."""
        if stream > self._last_seen or not stream & 1:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"stream {stream} is idle")
        if code is not None and stream not in self._ended:
            self._end_stream(stream, code)

    def _priority(self, _: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "PRIORITY of no stream")
        if len(payload) != 5 and stream in self._calls:
            self._break(self._calls[stream], ErrorCode.FRAME_SIZE_ERROR)

    def _rst_stream(self, _: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM")
        call = self._calls.get(stream)
        if call is None:
            self._stray(stream)
        else:
            self._drop(call)
            self._events.append((call, _Over.CANCELLED))

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % _SETTING.size or (flags & _ACK and payload):
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS")
        if flags & _ACK:
            if self._due is not None:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "another frame was due")
            return
        self._due = None
        self._settings_in_read += 1
        if self._settings_in_read > MAX_SETTINGS_IN_A_READ:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many SETTINGS")
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW_SIZE:
                self._move_windows(value)
            elif name == _MAX_FRAME:
                if not MAX_FRAME_SIZE <= value < 1 << 24:
                    raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE")
                self._max_frame = value
            elif name == _ENABLE_PUSH and value > 1:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH")
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))

    def _move_windows(self, initial: int) -> None:
        """The initial window moves those of open streams with it."""
        more = initial - self._initial_window
        largest = max((call.window for call in self._calls.values()), default=0)
        if initial > _MAX_WINDOW or largest + more > _MAX_WINDOW:
            raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE")
        self._initial_window = initial
        for call in self._calls.values():
            call.window += more
            if call.unsent:
                self._waiting[call] = None

    def _push_promise(self, _: int, stream: int, payload: bytes) -> None:
        raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE of a client")

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "PING")
        if not flags & _ACK:
            self._out.append(_frame(_PING, _ACK, 0, payload))

    def _goaway(self, _: int, stream: int, payload: bytes) -> None:
        """The peer takes no calls of ours, and we begin none."""
        if stream:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY")

    def _window_update(self, _: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE")
        more = int.from_bytes(payload, "big") & _MAX_WINDOW
        if not stream:
            if not more:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self._window += more
            if self._window > _MAX_WINDOW:
                raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE")
            return
        call = self._calls.get(stream)
        if call is None:
            self._stray(stream)
            return
        call.window += more
        if not more:
            self._break(call, ErrorCode.PROTOCOL_ERROR)
        elif call.window > _MAX_WINDOW:
            self._break(call, ErrorCode.FLOW_CONTROL_ERROR)
        elif call.unsent:
            self._waiting[call] = None

    _OTHERS: ClassVar[Mapping[int, Callable[[Connection, int, int, bytes], None]]] = (
        MappingProxyType(
            {
                _PRIORITY: _priority,
                _RST_STREAM: _rst_stream,
                _SETTINGS: _settings,
                _PUSH_PROMISE: _push_promise,
                _PING: _ping,
                _GOAWAY: _goaway,
                _WINDOW_UPDATE: _window_update,
                _CONTINUATION: _continuation,
            }
        )
    )
    """By type. Frames of types that are not known are skipped."""

    # -- what goes

    def output(self, budget: int) -> list[Buffer]:
        """What is to be written now: all frames that wait for nothing, and of messages that
        waited for a window about ``budget``, as far as there is one. Empty: nothing."""
        while self._waiting and self._window > 0 and budget > 0:
            call = next(iter(self._waiting))
            del self._waiting[call]
            budget -= self._send_waiting(call, min(budget, _TURN, call.window, self._window))
            if not call.unsent:
                if call.trailers is not None:
                    self._end(call, call.trailers)
            elif call.window > 0:
                self._waiting[call] = None
        out, self._out = self._out, []
        return out

    def send(self, call: Call, message: bytes, rest: bytes) -> None:
        """See `Call.send`."""
        size = len(message) + len(rest)
        length = _PREFIX.size + size
        if not call.begun:
            call.begun = True
            self._out.append(_frame(_HEADERS, _END_HEADERS, call.id, _RESPONSE))
        if (
            length <= call.window
            and length <= self._window
            and length <= self._max_frame
            and not call.unsent
        ):
            call.window -= length
            self._window -= length
            prefix = _MESSAGE_FRAME.pack(length << 8 | _DATA, 0, call.id, 0, size)
            self._out.append(prefix + message)
            if rest:
                self._out.append(rest)
            return
        call.unsent.append(memoryview(_PREFIX.pack(0, size) + message))
        if rest:
            call.unsent.append(memoryview(rest))
        self._waiting[call] = None

    def _send_waiting(self, call: Call, most: int) -> int:
        sent = 0
        while call.unsent and sent < most:
            piece = call.unsent[0]
            size = min(len(piece), most - sent, self._max_frame)
            self._out.append(_FRAME.pack(size << 8 | _DATA, 0, call.id))
            self._out.append(piece[:size])
            if size < len(piece):
                call.unsent[0] = piece[size:]
            else:
                call.unsent.popleft()
            sent += size
        call.window -= sent
        self._window -= sent
        return sent

    def finish(self, call: Call, status: Status, reason: str) -> None:
        """See `Call.finish`."""
        block = b"" if call.begun else _RESPONSE
        block += _OK if status is Status.OK else _literal(b"grpc-status", b"%d" % status)
        if reason:
            text = quote(reason, safe=" ,.:;()'/").encode()
            block += _literal(b"grpc-message", text[:_MAX_REASON])
        if call.unsent:
            call.trailers = block
        else:
            self._end(call, block)

    def cancel(self, call: Call) -> None:
        """See `Call.cancel`."""
        self._reset(call, ErrorCode.CANCEL)
        if call.receiver is not None:
            call.receiver.cancelled()

    def go_away(self) -> None:
        """Take no more calls; those that are open go on to their end."""
        if not self._is_leaving:
            self._is_leaving = True
            self._say_goodbye(ErrorCode.NO_ERROR, "")

    def _end(self, call: Call, trailers: bytes) -> None:
        self._out.append(_frame(_HEADERS, _END_STREAM | _END_HEADERS, call.id, trailers))
        self._drop(call)
        if not call.half_closed:
            # The client need not send anything more (RFC 9113, section 8.1).
            self._end_stream(call.id, ErrorCode.NO_ERROR)

    def _end_stream(self, stream: int, code: ErrorCode) -> None:
        self._out.append(_frame(_RST_STREAM, 0, stream, code.to_bytes(4, "big")))
        self._ended[stream] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _refuse(self, call: Call, status: Status, reason: str) -> None:
        """End a call that cannot be served, in gRPC's way."""
        call.unsent.clear()
        self.finish(call, status, reason)
        self._events.append((call, _Over.CANCELLED))

    def _break(self, call: Call, code: ErrorCode) -> None:
        """End a call whose stream breaks the protocol."""
        self._reset(call, code)
        self._events.append((call, _Over.CANCELLED))

    def _reset(self, call: Call, code: ErrorCode) -> None:
        self._drop(call)
        self._end_stream(call.id, code)

    def _drop(self, call: Call) -> None:
        """Nothing is sent and nothing is taken any more."""
        call.is_open = False
        call.partial = bytearray()
        del self._calls[call.id]
        self._waiting.pop(call, None)

    def _drop_calls(self) -> None:
        for call in tuple(self._calls.values()):
            self._drop(call)
            if call.receiver is not None:
                call.receiver.cancelled()

    def _fail(self, error: _ConnectionError) -> None:
        self._has_failed = True
        self._say_goodbye(error.code, error.reason)
        self._events.clear()
        self._drop_calls()

    def _say_goodbye(self, code: ErrorCode, reason: str) -> None:
        last = self._last_accepted.to_bytes(4, "big")
        payload = last + code.to_bytes(4, "big") + reason.encode()
        self._out.append(_frame(_GOAWAY, 0, 0, payload))

    def _enlarge(self, stream: int, more: int) -> None:
        self._out.append(_frame(_WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big")))


def _unpadded(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at == end:
        raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "padding without its length")
    start, end = at + 1, end - data[at]
    if start > end:
        raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return start, end
