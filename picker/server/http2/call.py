"""A gRPC call on one stream, and who serves it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from picker.server.http2.frames import PREFIX, RefusedError, Status

if TYPE_CHECKING:
    from picker.server.http2.connection import Connection

STREAM_WINDOW: Final = 16 << 20
"""What may come on a stream at once, bytes. A message may be longer: it is taken as it comes."""

Message: TypeAlias = bytes | bytearray
"""Of gRPC, without its prefix."""


class Receiver(Protocol):
    """Who serves a call."""

    def message(self, message: Message) -> None:
        """The client's next message."""

    def half_closed(self) -> None:
        """The client sends nothing more."""

    def cancelled(self) -> None:
        """The client does not wait any more, or is gone. Nothing can be sent."""


class Call:
    """One stream: a gRPC call. What is not for receivers is the connection's."""

    __slots__ = (
        "_connection",
        "_missing",
        "_partial",
        "_prefix",
        "begun",
        "credit",
        "half_closed",
        "id",
        "is_open",
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
        self._prefix = b""
        """Of a message, as far as it has come."""
        self._partial = bytearray()
        """A message, as far as it has come."""
        self._missing = 0
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

    @property
    def is_within_message(self) -> bool:
        """The client has not sent all of the last one."""
        return bool(self._missing or self._prefix)

    def assemble(self, data: bytes, at: int, end: int, max_message: int) -> list[Message]:
        """The messages that are complete with this part of the stream. Raises RefusedError."""
        complete: list[Message] = []
        while at < end:
            if self._missing:
                stop = min(end, at + self._missing)
                self._partial += memoryview(data)[at:stop]
                self._missing -= stop - at
                at = stop
                if not self._missing:
                    complete.append(self._partial)
                    self._partial = bytearray()
                continue
            stop = at + PREFIX.size - len(self._prefix)
            prefix = self._prefix + data[at : min(stop, end)]
            if stop > end:
                self._prefix = prefix
                break
            at, self._prefix = stop, b""
            is_compressed, size = PREFIX.unpack(prefix)
            if is_compressed:
                raise RefusedError(Status.UNIMPLEMENTED, "compressed messages are not read")
            if size > max_message:
                raise RefusedError(Status.RESOURCE_EXHAUSTED, "the message is too long")
            if size > end - at:
                self._missing = size
            else:
                complete.append(data[at : at + size])
                at += size
        return complete

    def drop(self) -> None:
        """Nothing is sent and nothing is taken any more."""
        self.is_open = False
        self._partial = bytearray()

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
