"""Between the pickers and Redis: as slow as a test wants it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.real.ports import free_port

_ORDER_S = 1e-6
"""Between two pieces, so that they stay in order."""


class RedisProxy:
    """Passes everything on; what Redis answers comes ``delay_s`` late."""

    def __init__(self, socket: Path) -> None:
        self.port = free_port()
        self.delay_s = 0.0
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For the configuration."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            theirs, ours = await asyncio.open_unix_connection(str(self._socket))
            await asyncio.gather(self._pass(reader, ours), self._late(theirs, writer))
        except OSError:
            pass  # one of the two is gone, and so is the other's connection
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _late(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each answer is as late as the others, however many there are."""
        loop = asyncio.get_running_loop()
        due_s = 0.0
        while data := await reader.read(65536):
            due_s = max(loop.time() + self.delay_s, due_s + _ORDER_S)
            loop.call_at(due_s, _write, writer, data)
        loop.call_at(max(loop.time(), due_s + _ORDER_S), writer.close)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)
