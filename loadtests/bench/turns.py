"""One request at a time, to several servers in turn: what disturbs the machine for a while then
disturbs all of them alike."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass

from loadtests.bench.connection import Connection
from loadtests.bench.prompts import PromptShape, Requests
from loadtests.bench.result import Result

_LONGEST_S = 60.0
"""For one turn of all servers."""


@dataclass(frozen=True, slots=True)
class TurnsJob:
    """``requests`` for each of ``ports`` on 127.0.0.1, over one connection each; who begins a turn
    changes. The first ``warm_up`` requests of each count only as failures."""

    ports: list[int]
    prompt: PromptShape
    seed: int
    requests: int
    warm_up: int = 10
    max_tokens: int = 1
    stream: bool = False
    keys: int = 0
    """API keys to show in turn; 0: none."""


class _Server:
    """A server's connection, and what came of its requests."""

    def __init__(self) -> None:
        self.result = Result()
        self.connection: Connection | None = None
        self._answer: asyncio.Future[None] | None = None
        self._counts = False

    async def ask(self, port: int, request: bytes, *, counts: bool) -> None:
        """Send a request and wait for its end."""
        loop = asyncio.get_running_loop()
        if self.connection is None or not self.connection.open:
            _, self.connection = await loop.create_connection(
                lambda: Connection(self, self.result), "127.0.0.1", port
            )
        self._answer, self._counts = loop.create_future(), counts
        self.connection.send(request, time.monotonic())
        await self._answer

    def answered(self, connection: Connection, _: float) -> None:
        if self._counts:
            self.result.add(connection.latency_s, connection.first_byte_s)
            self.result.seconds += connection.latency_s
        self._done()

    def failed(self, _: Connection, reason: str) -> None:
        self.result.failures[reason] = self.result.failures.get(reason, 0) + 1
        self._done()

    def _done(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)


async def take_turns(job: TurnsJob) -> list[Result]:
    """A result for each port; its ``seconds`` are the sum of its latencies. A turn that does not
    end is given up, and so are those after it."""
    requests = Requests(
        job.prompt, max_tokens=job.max_tokens, stream=job.stream, seed=job.seed, keys=job.keys
    )
    servers = [(port, _Server()) for port in job.ports]
    # A collection would fall on some request or other, and it is not theirs.
    gc.collect()
    gc.disable()
    try:
        for turn in range(job.warm_up + job.requests):
            first = turn % len(servers)
            async with asyncio.timeout(_LONGEST_S):
                for port, server in (*servers[first:], *servers[:first]):
                    await server.ask(port, requests.next(), counts=turn >= job.warm_up)
    except TimeoutError:
        for _, server in servers:
            server.result.failures["no answer"] = 1
    finally:
        gc.enable()
        for _, server in servers:
            if server.connection is not None:
                server.connection.close()
    return [server.result for _, server in servers]
