"""A connection to Redis that can be slowed down, held up and made to refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.redis_server import RedisServer


class SlowLine:
    """Stands between a client and Redis; what Redis says comes ``delay_s`` later,
    and what it is told waits for the ``barrier`` that is there when it comes."""

    def __init__(self, server: RedisServer, socket: Path) -> None:
        self.server, self.socket = server, socket
        self.delay_s = 0.0
        self.refusal: bytes | None = None
        """What every command on the connections that are open now is answered with."""
        self.barrier: asyncio.Event | None = None
        self.waiting = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        tasks: set[asyncio.Task[None]] = set()

        async def refuse(
            data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            while data:
                writer.write(self.refusal or b"-READONLY still\r\n")
                data = await reader.read(65_536)

        async def pass_on(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter
        ) -> None:
            while data := await source.read(65_536):
                if sink is back:
                    await asyncio.sleep(self.delay_s)
                elif self.refusal is not None:
                    await refuse(data, source, back)
                    break
                elif self.barrier is not None:
                    self.waiting += 1
                    await self.barrier.wait()
                sink.write(data)
            sink.close()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, forth = await asyncio.open_unix_connection(self.server.socket)
            tasks.add(asyncio.create_task(pass_on(reader, forth, writer)))
            tasks.add(asyncio.create_task(pass_on(back, writer, writer)))

        listener = await asyncio.start_unix_server(accept, self.socket)
        yield f"unix://{self.socket}"
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
