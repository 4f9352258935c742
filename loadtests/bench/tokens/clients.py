"""Clients that all ask at the same time, and wait for the end of what they get."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import Final, cast

import uvloop

from loadtests.bench.tokens.answers import Order

_LONGEST_S: Final = 60.0
_END: Final = b"0\r\n\r\n"
_numbers = itertools.count()


@dataclass(slots=True)
class Got:
    """What came of an order, over all clients."""

    answers: int = 0
    events: int = 0
    reads: int = 0
    """Pieces in which streams came."""
    content_bytes: int = 0


class WrongAnswerError(RuntimeError):
    """An answer is not what was asked for."""


class _Client(asyncio.Protocol):
    def __init__(self, got: Got) -> None:
        self._got = got
        self._head = b""
        self._end = b""
        self._missing: int | None = None
        self.answer: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(WrongAnswerError("the connection was closed"))

    async def ask(self, request: bytes) -> None:
        assert self.transport is not None
        self._head, self._end, self._missing = b"", b"", None
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self.answer

    def data_received(self, data: bytes) -> None:
        assert self.answer is not None
        if not self._end and self._missing is None:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.answer.set_exception(WrongAnswerError(self._head.decode(errors="replace")))
                return
            _, sized, rest = head.lower().partition(b"\r\ncontent-length: ")
            self._missing = int(rest.split(b"\r", 1)[0]) if sized else None
            self._end = b"-"
            if not data:
                return
        self._got.content_bytes += len(data)
        if self._missing is None:
            self._got.reads += 1
            self._got.events += data.count(b"\n\n")
            self._end = (self._end + data)[-5:]
            over = self._end == _END
        else:
            self._missing -= len(data)
            over = self._missing <= 0
        if over:
            self._got.answers += 1
            self.answer.set_result(None)


def ask_all(port: int, order: Order, *, clients: int, each: int = 1) -> Got:
    """``clients`` at once, each ``each`` times in turn. Raises WrongAnswerError, OSError,
    TimeoutError."""
    got = Got()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        made = [
            (await loop.create_connection(lambda: _Client(got), "127.0.0.1", port))[1]
            for _ in range(clients)
        ]

        async def one(client: _Client) -> None:
            for _ in range(each):
                await client.ask(order.request(next(_numbers)))

        async with asyncio.timeout(_LONGEST_S), asyncio.TaskGroup() as group:
            for client in made:
                group.create_task(one(client))
        for client in made:
            if client.transport is not None:
                client.transport.close()

    uvloop.run(run())
    return got
