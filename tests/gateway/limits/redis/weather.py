"""A connection to Redis on which everything happens that happens on networks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.redis_server import RedisServer

Delay = Callable[[], float]


class Weather:
    """Stands between a client and Redis. Every piece, each way, waits for ``delay_s()``; pieces of
    one connection stay in order."""

    def __init__(self, server: RedisServer, socket: Path, rng: random.Random) -> None:
        self.server, self.socket, self.rng = server, socket, rng
        self.delay_s: Delay = lambda: 0.0
        self.resets = 0.0
        """Probability that an answer is cut at a random place, and its connection reset."""
        self.stalls = 0.0
        """Probability that a piece, and what comes after it, stays on its way for ever."""
        self.says: bytes | None = None
        """What every command is answered with instead of being passed on."""
        self.deaf = False
        """New connections are accepted, and nothing is ever answered on them."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._serve(reader, writer)
            except OSError:
                pass  # one of the two is gone, and so is the other's connection
            finally:
                writer.close()
                tasks.discard(task)

        listener = await asyncio.start_unix_server(serve, self.socket)
        yield f"unix://{self.socket}"
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.deaf:
            await asyncio.Event().wait()
        theirs, ours = await asyncio.open_unix_connection(self.server.socket)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, ours, writer))
                group.create_task(self._pass(theirs, writer, writer))
        except* OSError:
            pass
        finally:
            ours.close()

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        while data := await source.read(65_536):
            if self.rng.random() < self.stalls:
                await asyncio.Event().wait()
            await asyncio.sleep(self.delay_s())
            if sink.is_closing() or client.is_closing():
                return  # the other direction has ended meanwhile
            if self.says is not None and sink is not client:
                client.write(self.says * data.count(b"EVAL"))
            elif sink is client and self.rng.random() < self.resets:
                sink.write(data[: self.rng.randrange(len(data))])
                with contextlib.suppress(OSError):
                    await sink.drain()
                sink.transport.abort()
                raise ConnectionResetError
            else:
                sink.write(data)
        sink.close()
