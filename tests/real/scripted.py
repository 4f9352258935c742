"""A replica whose answers a test writes, chunk for chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from tests.real.ports import free_port

SSE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Script:
    """An answer. ``then``: it ends, or stays open until the client leaves, or the connection
    breaks."""

    chunks: Sequence[bytes] = ()
    """Each is sent on its own."""
    then: Literal["end", "hang", "break"] = "end"
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": SSE})


@dataclass(slots=True)
class Engine:
    """Answers every request with the script; runs for the time of an ``async with``."""

    script: Script = field(default_factory=Script)
    port: int = field(default_factory=free_port)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of each request, by lower-case name."""
    _runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """``ip:port``."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        script = self.script
        answer = web.StreamResponse(status=script.status, headers=script.headers)
        await answer.prepare(request)
        for chunk in script.chunks:
            await answer.write(chunk)
            await asyncio.sleep(0.002)  # so that each is a chunk of its own
        if script.then == "hang":
            await asyncio.Event().wait()  # cancelled when the client has left
        if script.then == "break":
            assert request.transport is not None
            request.transport.abort()
        await answer.write_eof()
        return answer
