"""The load generator: a process of its own that takes jobs line by line.

Run as ``python -m loadtests.bench.load``: each line on standard input is a `Job`, a `TurnsJob` or
a `StreamsJob` in JSON; the answer is a `Result`, a list of one for each port, or a `StreamsResult`.
It uses raw sockets and prepared bytes: a request costs it about 40 us, a token about 6 us.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass

import orjson
import uvloop

from loadtests.bench.connection import Connection
from loadtests.bench.long_prompts import LongMix, LongRequests
from loadtests.bench.metronome import Metronome
from loadtests.bench.prompts import PromptShape, Requests
from loadtests.bench.result import Result
from loadtests.bench.streams import StreamsJob, StreamsResult, hold
from loadtests.bench.turns import TurnsJob, take_turns

_LEAD_S = 0.02
_STUCK_S = 20.0
"""Requests without an answer this long after the last one was due are given up."""
_LONGEST_S = 120.0
"""Longest time of a job that ends with a number of requests."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run against 127.0.0.1:``port``.

    With ``rate`` (requests/s) the loop is open: a request is due every 1/rate seconds whatever
    the answers do, and its times count from then. Without, it is closed: each of ``connections``
    sends its next request when the last is answered. Ends after ``seconds`` or ``requests``. A
    `LongMix` says itself which keys are shown and what is a stream.
    """

    port: int
    prompt: PromptShape | LongMix
    seed: int
    connections: int
    rate: float | None = None
    seconds: float | None = None
    requests: int | None = None
    max_tokens: int = 1
    stream: bool = False
    keys: int = 0
    """API keys to show in turn; 0: none."""
    first_key: int = 0
    """Number of the first of them."""

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.requests is None):
            raise ValueError("a job has either seconds or requests")


class _Run:
    def __init__(self, job: Job) -> None:
        self.result = Result()
        self._job = job
        self._requests = _requests(job)
        self._failures: Counter[str] = Counter()
        self._idle: list[Connection] = []
        self._all: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._begun = 0
        self._ended = 0
        self._start_s = 0.0
        self._last_s = 0.0
        self._over = asyncio.Event()
        self._sending = True

    async def go(self) -> Result:
        loop, job = asyncio.get_running_loop(), self._job
        for _ in range(job.connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self, self.result), "127.0.0.1", job.port
            )
            self._all.append(connection)
        self._idle = list(self._all)
        self._start_s = self._last_s = time.monotonic() + _LEAD_S
        if job.rate is None:
            await self._closed()
        else:
            await self._open_loop(job.rate)
        for connection in self._all:
            connection.close()
        missing = self._begun - self._ended + len(self._waiting)
        if missing:
            self._failures["no answer"] += missing
        self.result.seconds = self._last_s - self._start_s
        self.result.failures = dict(self._failures)
        return self.result

    async def _closed(self) -> None:
        await asyncio.sleep(_LEAD_S)
        while self._idle and self._sending:
            self._next(self._idle.pop(), time.monotonic())
        await self._finish(self._job.seconds)

    async def _open_loop(self, rate: float) -> None:
        metronome = Metronome(self._start_s, 1 / rate, self._due)
        try:
            await self._finish(self._job.seconds)
        finally:
            metronome.stop()

    async def _finish(self, seconds: float | None) -> None:
        try:
            if seconds is not None:
                await asyncio.sleep(self._start_s + seconds - time.monotonic())
                self._sending = False
                self._check()
            async with asyncio.timeout(_LONGEST_S if seconds is None else _STUCK_S):
                await self._over.wait()
        except TimeoutError:
            self._sending = False

    def _due(self, due_s: float) -> None:
        if not self._sending:
            return
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                self._next(connection, due_s)
                return
        self._waiting.append(due_s)

    def _next(self, connection: Connection, due_s: float) -> None:
        self._begun += 1
        if self._begun == self._job.requests:
            self._sending = False
        connection.send(self._requests.next(), due_s)

    def answered(self, connection: Connection, now_s: float) -> None:
        self.result.add(connection.latency_s, connection.first_byte_s)
        self._last_s = now_s
        self._ready(connection, now_s)

    def failed(self, connection: Connection, reason: str) -> None:
        self._failures[reason] += 1
        self._last_s = time.monotonic()
        self._ready(connection, self._last_s)

    def _ready(self, connection: Connection, now_s: float) -> None:
        self._ended += 1
        if connection.open:
            if self._job.rate is None:
                if self._sending:
                    self._next(connection, now_s)
            elif self._waiting:
                self._next(connection, self._waiting.popleft())
            else:
                self._idle.append(connection)
        self._check()

    def _check(self) -> None:
        if not self._sending and self._begun == self._ended and not self._waiting:
            self._over.set()
        elif self._sending and not any(connection.open for connection in self._all):
            self._sending = False
            self._over.set()


def _requests(job: Job) -> Requests | LongRequests:
    if isinstance(job.prompt, LongMix):
        return LongRequests(job.prompt, max_tokens=job.max_tokens, seed=job.seed)
    return Requests(
        job.prompt,
        max_tokens=job.max_tokens,
        stream=job.stream,
        seed=job.seed,
        keys=job.keys,
        first_key=job.first_key,
    )


async def serve() -> None:
    """Do jobs until standard input ends."""
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        given = orjson.loads(line)
        prompt = given["prompt"]
        given["prompt"] = LongMix.read(prompt) if "users" in prompt else PromptShape(**prompt)
        done: Result | list[Result] | StreamsResult
        if "streams" in given:
            done = await hold(StreamsJob(**given))
        elif "ports" in given:
            done = await take_turns(TurnsJob(**given))
        else:
            done = await _Run(Job(**given)).go()
        sys.stdout.buffer.write(orjson.dumps(done) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(serve())
