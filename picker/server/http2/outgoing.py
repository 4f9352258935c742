"""What goes: frames in their order, and messages that wait for the peer's windows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, TypeAlias

from picker.server.http2.call import Call
from picker.server.http2.frames import (
    DATA,
    END_HEADERS,
    FRAME,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    MESSAGE_FRAME,
    PREFIX,
    RESPONSE,
    BrokenError,
    ErrorCode,
    frame,
)

_TURN: Final = 4 * MAX_FRAME_SIZE
"""Most of one waiting message before others have their turn, bytes."""

Buffer: TypeAlias = bytes | memoryview


class Outgoing:
    """Of one connection. Sizes are in bytes."""

    def __init__(self) -> None:
        self.max_frame = MAX_FRAME_SIZE
        """Longest frame that the peer takes."""
        self.initial_window = INITIAL_WINDOW
        """Of a new stream."""
        self._window = INITIAL_WINDOW
        self._out: list[Buffer] = []
        self._waiting: dict[Call, None] = {}
        """Those that have something unsent and, as far as is known, a window for it; in turn."""

    def emit(self, frame: bytes) -> None:
        """A frame that waits for nothing."""
        self._out.append(frame)

    def take(self) -> list[Buffer]:
        """All that can be written, which is then no longer here."""
        out, self._out = self._out, []
        return out

    def send(self, call: Call, message: bytes, rest: bytes) -> None:
        """A message; ``rest`` is its end, and is not copied."""
        size = len(message) + len(rest)
        length = PREFIX.size + size
        if not call.begun:
            call.begun = True
            self._out.append(frame(HEADERS, END_HEADERS, call.id, RESPONSE))
        if (
            length <= call.window
            and length <= self._window
            and length <= self.max_frame
            and not call.unsent
        ):
            call.window -= length
            self._window -= length
            prefix = MESSAGE_FRAME.pack(length << 8 | DATA, 0, call.id, 0, size)
            self._out.append(prefix + message)
            if rest:
                self._out.append(rest)
            return
        call.unsent.append(memoryview(PREFIX.pack(0, size) + message))
        if rest:
            call.unsent.append(memoryview(rest))
        self._waiting[call] = None

    def send_waiting(self, budget: int) -> Iterator[Call]:
        """About so much of what waits, as far as there are windows; the calls of which nothing is
        unsent any more."""
        while self._waiting and self._window > 0 and budget > 0:
            call = next(iter(self._waiting))
            del self._waiting[call]
            budget -= self._send_some(call, min(budget, _TURN, call.window, self._window))
            if not call.unsent:
                yield call
            elif call.window > 0:
                self._waiting[call] = None

    def _send_some(self, call: Call, most: int) -> int:
        sent = 0
        while call.unsent and sent < most:
            piece = call.unsent[0]
            size = min(len(piece), most - sent, self.max_frame)
            self._out.append(FRAME.pack(size << 8 | DATA, 0, call.id))
            self._out.append(piece[:size])
            if size < len(piece):
                call.unsent[0] = piece[size:]
            else:
                call.unsent.popleft()
            sent += size
        call.window -= sent
        self._window -= sent
        return sent

    def may_go_on(self, call: Call) -> None:
        """Its window has grown."""
        if call.unsent:
            self._waiting[call] = None

    def forget(self, call: Call) -> None:
        """It has ended."""
        self._waiting.pop(call, None)

    def enlarge(self, more: int) -> None:
        """The connection's window. Raises BrokenError."""
        self._window += more
        if self._window > MAX_WINDOW:
            raise BrokenError(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE")

    def move_windows(self, initial: int, calls: Collection[Call]) -> None:
        """The initial window, and those of the open calls with it. Raises BrokenError."""
        more = initial - self.initial_window
        largest = max((call.window for call in calls), default=0)
        if initial > MAX_WINDOW or largest + more > MAX_WINDOW:
            raise BrokenError(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE")
        self.initial_window = initial
        for call in calls:
            call.window += more
            self.may_go_on(call)
