"""Serves gRPC calls on a unix socket, by `picker.server.http2` on an asyncio protocol: what one
read brings is answered by one write."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, cast

from picker.server.http2.call import Call, Receiver
from picker.server.http2.connection import Connection

_BATCH: Final = 256 << 10
"""Most of waiting messages that is written at once, bytes."""
_BACKLOG: Final = 1024

Flush: TypeAlias = Callable[[], None]
Accept: TypeAlias = Callable[[Call, Flush], Receiver]
"""Gives the receiver of a new call. Who sends later than in its `Receiver`'s methods has to flush
then."""


class UnixServer:
    """Listens on one path."""

    def __init__(self, accept: Accept, *, max_message: int) -> None:
        """``max_message``: longest message that is taken, bytes."""
        self._accept, self._max_message = accept, max_message
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None

    @property
    def running(self) -> int:
        """Calls that have not ended."""
        return sum(line.running for line in self._lines)

    async def listen(self, path: Path) -> None:
        """Begin. Whoever listened on the path before gets no new connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, in our own folder
            listening.bind(str(path))
        except BaseException:
            listening.close()
            raise
        # Given as a socket: asyncio would remove the path at the end, which may be a new process's.
        self._server = await loop.create_unix_server(self._line, sock=listening, backlog=_BACKLOG)

    def drain(self) -> None:
        """Have the clients connect anew, where another process may listen on the path by now."""
        for line in tuple(self._lines):
            line.drain()

    def close(self) -> None:
        """Take no more calls, end those that are open, and close the connections when what was
        sent is written."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in tuple(self._lines):
            line.close()

    def _line(self) -> _Line:
        return _Line(self._accept, self._max_message, self._lines)


class _Line(asyncio.Protocol):
    """One connection. While the peer does not read what we write, nothing of it is read: so
    neither answers nor calls pile up."""

    def __init__(self, accept: Accept, max_message: int, lines: set[_Line]) -> None:
        self._connection = Connection(
            lambda call: accept(call, self.flush), max_message=max_message
        )
        self._lines = lines
        self._transport: asyncio.Transport | None = None
        self._is_paused = False

    @property
    def running(self) -> int:
        return len(self._connection.calls)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._lines.add(self)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._connection.receive(data)
        self.flush()

    def pause_writing(self) -> None:
        self._is_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._lines.discard(self)
        self._connection.lost()

    def flush(self) -> None:
        """Write what can be written."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while out := self._connection.output(0 if self._is_paused else _BATCH):
            transport.writelines(out)
        if self._connection.is_over:
            transport.close()

    def drain(self) -> None:
        """The client begins no more calls here."""
        self._connection.announce_end()
        self.flush()

    def close(self) -> None:
        """End all calls, and the connection."""
        for call in tuple(self._connection.calls):
            call.cancel()
        self._connection.go_away()
        self.flush()
