"""The server's side of one HTTP/2 connection that carries gRPC, without I/O: bytes in, messages
out.

No header is decoded. The peer is our own Envoy (nobody else may enter the socket's folder), it
calls one method, and what it asks stands in its messages: no header or trailer could change what
we do. A header block is skipped as a whole, which is safe because HPACK's state is only needed by
who reads headers: we tell the peer to keep no table, and send literals and entries of the static
table ourselves. `grpc-timeout` is not needed: a client that gives up resets its stream. Nor is
`grpc-encoding`: a compressed message is refused.

Sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from types import MappingProxyType
from typing import ClassVar, Final

from picker.server.http2.call import STREAM_WINDOW, Call, Message, Receiver
from picker.server.http2.frame_reader import FrameReader
from picker.server.http2.frames import (
    ACK,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME,
    MAX_FRAME_SIZE,
    MAX_STREAM,
    MAX_STREAMS,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    BrokenError,
    ErrorCode,
    RefusedError,
    Status,
    frame,
    number,
    trailers_of,
    unpadded,
)
from picker.server.http2.outgoing import Buffer, Outgoing
from picker.server.http2.streams import MAX_CONCURRENT_STREAMS, Streams

CONNECTION_WINDOW: Final = 1 << 30
MAX_SETTINGS_IN_A_READ: Final = 100
"""Each may change the window of every stream."""


class _Over(Enum):
    """How a call's messages end."""

    HALF_CLOSED = "the client sends nothing more"
    CANCELLED = "nobody waits for an answer any more"


class Connection:
    """Call `receive` with what comes, and write `output` after it and after whatever a receiver
    has sent meanwhile."""

    def __init__(self, accept: Callable[[Call], Receiver], *, max_message: int) -> None:
        """``accept`` gives the receiver of a new call. A longer message than ``max_message`` is
        refused."""
        self._accept = accept
        self._max_message = max_message
        self._frames = FrameReader()
        self._streams = Streams()
        self._calls = self._streams.calls
        self._is_leaving = False
        self._has_failed = False
        self._settings_in_read = 0
        self._events: list[tuple[Call, Message | _Over]] = []
        self._credit = CONNECTION_WINDOW
        self._outgoing = Outgoing()
        ours = (
            (HEADER_TABLE_SIZE, 0),
            (MAX_STREAMS, MAX_CONCURRENT_STREAMS),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
        )
        self._emit(SETTINGS, 0, 0, b"".join(SETTING.pack(*one) for one in ours))
        self._enlarge(0, CONNECTION_WINDOW - INITIAL_WINDOW)

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
        self._settings_in_read = 0
        try:
            self._frames.read(data, self)
        except BrokenError as error:
            self._fail(error)
        events, self._events = self._events, []
        for call, what in events:
            if what is _Over.CANCELLED:
                _cancelled(call)
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
        self._outgoing.take()

    # What comes is taken at once, and its windows grow again long before they are empty: nobody who
    # heeds them has to wait, and there is none that could be overrun.

    def take_data(self, flags: int, stream: int, data: bytes, at: int, end: int) -> None:
        """See `FrameSink`."""
        length = end - at
        self._credit -= length
        if self._credit < CONNECTION_WINDOW // 2:
            self._enlarge(0, CONNECTION_WINDOW - self._credit)
            self._credit = CONNECTION_WINDOW
        if flags & PADDED:
            at, end = unpadded(data, at, end)
        call = self._calls.get(stream)
        if call is None:
            self._streams.check_begun(stream)
            if not self._streams.may_seem_open(stream):
                self._end_stream(stream, ErrorCode.STREAM_CLOSED)
            return
        if call.half_closed:
            self._break(call, ErrorCode.STREAM_CLOSED)
            return
        call.credit -= length
        try:
            for message in call.assemble(data, at, end, self._max_message):
                self._events.append((call, message))
        except RefusedError as error:
            self._refuse(call, error)
        if flags & END_STREAM:
            self._half_close(call)
        elif call.credit < STREAM_WINDOW // 2 and call.is_open:
            self._enlarge(stream, STREAM_WINDOW - call.credit)
            call.credit = STREAM_WINDOW

    def _half_close(self, call: Call) -> None:
        call.half_closed = True
        if not call.is_open:
            return
        if call.is_within_message:
            self._refuse(call, RefusedError(Status.INTERNAL, "the message is cut off"))
        else:
            self._events.append((call, _Over.HALF_CLOSED))

    def take_headers(self, flags: int, stream: int, data: bytes, at: int, end: int) -> None:
        """See `FrameSink`."""
        if flags & PADDED:
            at, end = unpadded(data, at, end)
        if flags & HAS_PRIORITY and end - at < 5:
            raise BrokenError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
        call = self._calls.get(stream)
        if call is None:
            if not self._streams.begins(stream):
                return
            if self._is_leaving or len(self._calls) >= self._streams.most:
                self._end_stream(stream, ErrorCode.REFUSED_STREAM)
                return
            call = Call(self, stream, self._outgoing.initial_window)
            self._streams.accept(call)
            if flags & END_STREAM:
                self._half_close(call)
        elif call.half_closed:
            self._break(call, ErrorCode.STREAM_CLOSED)
        elif flags & END_STREAM:
            self._half_close(call)
        else:
            self._break(call, ErrorCode.PROTOCOL_ERROR)

    def take_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """See `FrameSink`."""
        if kind in self._OTHERS:
            self._OTHERS[kind](self, flags, stream, payload)

    def _priority(self, _: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise BrokenError(ErrorCode.PROTOCOL_ERROR, "PRIORITY of no stream")
        if len(payload) != 5 and stream in self._calls:
            self._break(self._calls[stream], ErrorCode.FRAME_SIZE_ERROR)

    def _rst_stream(self, _: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise BrokenError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM")
        call = self._calls.get(stream)
        if call is None:
            self._streams.check_begun(stream)
        else:
            self._drop(call)
            self._events.append((call, _Over.CANCELLED))

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise BrokenError(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % SETTING.size or (flags & ACK and payload):
            raise BrokenError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS")
        if flags & ACK:
            self._streams.limit()
            return
        self._settings_in_read += 1
        if self._settings_in_read > MAX_SETTINGS_IN_A_READ:
            raise BrokenError(ErrorCode.ENHANCE_YOUR_CALM, "too many SETTINGS")
        for name, value in SETTING.iter_unpack(payload):
            if name == INITIAL_WINDOW_SIZE:
                self._outgoing.move_windows(value, self._calls.values())
            elif name == MAX_FRAME:
                if not MAX_FRAME_SIZE <= value < 1 << 24:
                    raise BrokenError(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE")
                self._outgoing.max_frame = value
            elif name == ENABLE_PUSH and value > 1:
                raise BrokenError(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH")
        self._emit(SETTINGS, ACK, 0, b"")

    def _push_promise(self, _: int, stream: int, payload: bytes) -> None:
        raise BrokenError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE of a client")

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise BrokenError(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise BrokenError(ErrorCode.FRAME_SIZE_ERROR, "PING")
        if not flags & ACK:
            self._emit(PING, ACK, 0, payload)

    def _goaway(self, _: int, stream: int, payload: bytes) -> None:
        """The peer takes no calls of ours, and we begin none."""
        if stream:
            raise BrokenError(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise BrokenError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY")

    def _window_update(self, _: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise BrokenError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE")
        more = int.from_bytes(payload, "big") & MAX_WINDOW
        if not stream:
            if not more:
                raise BrokenError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self._outgoing.enlarge(more)
            return
        call = self._calls.get(stream)
        if call is None:
            self._streams.check_begun(stream)
            return
        call.window += more
        if not more:
            self._break(call, ErrorCode.PROTOCOL_ERROR)
        elif call.window > MAX_WINDOW:
            self._break(call, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            self._outgoing.may_go_on(call)

    _OTHERS: ClassVar[Mapping[int, Callable[[Connection, int, int, bytes], None]]] = (
        MappingProxyType(
            {
                PRIORITY: _priority,
                RST_STREAM: _rst_stream,
                SETTINGS: _settings,
                PUSH_PROMISE: _push_promise,
                PING: _ping,
                GOAWAY: _goaway,
                WINDOW_UPDATE: _window_update,
            }
        )
    )
    """By type. Frames of types that are not known are skipped."""

    # -- what goes

    def output(self, budget: int) -> list[Buffer]:
        """What is to be written now: all frames that wait for nothing, and of messages that
        waited for a window about ``budget``, as far as there is one. Empty: nothing."""
        for call in self._outgoing.send_waiting(budget):
            if call.trailers is not None:
                self._end(call, call.trailers)
                call.receiver = None
        return self._outgoing.take()

    def send(self, call: Call, message: bytes, rest: bytes) -> None:
        """See `Call.send`."""
        self._outgoing.send(call, message, rest)

    def finish(self, call: Call, status: Status, reason: str) -> None:
        """See `Call.finish`."""
        trailers = trailers_of(status, reason, begun=call.begun)
        if call.unsent:
            call.trailers = trailers
        else:
            self._end(call, trailers)
            call.receiver = None  # or each would keep the other until a collection

    def cancel(self, call: Call) -> None:
        """See `Call.cancel`."""
        self._reset(call, ErrorCode.CANCEL)
        _cancelled(call)

    def announce_end(self) -> None:
        """Have the peer begin no more calls here. Those that have crossed this are still taken."""
        if not self._is_leaving:
            self._emit(GOAWAY, 0, 0, number(MAX_STREAM) + number(ErrorCode.NO_ERROR))

    def go_away(self) -> None:
        """Take no more calls; those that are open go on to their end."""
        if not self._is_leaving:
            self._is_leaving = True
            self._say_goodbye(ErrorCode.NO_ERROR, "")

    def _end(self, call: Call, trailers: bytes) -> None:
        self._emit(HEADERS, END_STREAM | END_HEADERS, call.id, trailers)
        self._drop(call)
        if not call.half_closed:
            # The client need not send anything more (RFC 9113, section 8.1).
            self._end_stream(call.id, ErrorCode.NO_ERROR)

    def _end_stream(self, stream: int, code: ErrorCode) -> None:
        self._emit(RST_STREAM, 0, stream, number(code))
        self._streams.ended_here(stream)

    def _refuse(self, call: Call, error: RefusedError) -> None:
        """End a call that cannot be served, in gRPC's way."""
        self._end(call, trailers_of(error.status, error.reason, begun=call.begun))
        self._events.append((call, _Over.CANCELLED))

    def _break(self, call: Call, code: ErrorCode) -> None:
        """End a call whose stream breaks the protocol."""
        self._reset(call, code)
        self._events.append((call, _Over.CANCELLED))

    def _reset(self, call: Call, code: ErrorCode) -> None:
        self._drop(call)
        self._end_stream(call.id, code)

    def _drop(self, call: Call) -> None:
        call.drop()
        del self._calls[call.id]
        self._outgoing.forget(call)

    def _drop_calls(self) -> None:
        for call in tuple(self._calls.values()):
            self._drop(call)
            _cancelled(call)

    def _fail(self, error: BrokenError) -> None:
        self._has_failed = True
        self._say_goodbye(error.code, error.reason)
        # Nobody would tell those that have just ended otherwise.
        self._events = [one for one in self._events if one[1] is _Over.CANCELLED]
        self._drop_calls()

    def _say_goodbye(self, code: ErrorCode, reason: str) -> None:
        last = number(self._streams.last_accepted)
        payload = last + number(code) + reason.encode()
        self._emit(GOAWAY, 0, 0, payload)

    def _emit(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._outgoing.emit(frame(kind, flags, stream, payload))

    def _enlarge(self, stream: int, more: int) -> None:
        self._emit(WINDOW_UPDATE, 0, stream, number(more))


def _cancelled(call: Call) -> None:
    receiver, call.receiver = call.receiver, None
    if receiver is not None:
        receiver.cancelled()
