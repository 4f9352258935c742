"""The load generator: a process of its own that takes jobs line by line.

Run as ``python -m loadtests.bench.load``: each line on standard input is a `Job` in JSON; the
answer is a `Result`. It uses raw sockets and prepared bytes: a request costs it about 40 us, a
token about 6 us.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import cast

import orjson
import uvloop

from loadtests.bench.metronome import Metronome
from loadtests.bench.prompts import PromptShape, Requests

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
    sends its next request when the last is answered. Ends after ``seconds`` or ``requests``.
    """

    port: int
    prompt: PromptShape
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


@dataclass(slots=True)
class Result:
    """What happened; times in seconds, lists in the order of the answers."""

    answered: int = 0
    seconds: float = 0.0
    """From the first request to the last answer."""
    latencies_s: list[float] = field(default_factory=list)
    """To the last byte."""
    first_bytes_s: list[float] = field(default_factory=list)
    """To the first byte of the body; streams only."""
    events: int = 0
    """Server-sent events."""
    reads: int = 0
    """Pieces in which the bodies of streams arrived."""
    failures: dict[str, int] = field(default_factory=dict)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._due_s = 0.0
        self._busy = False
        self._head = b""
        self._in_body = False
        self._missing_bytes = 0
        self._chunked = False
        self._end = b""
        self._first_byte_s: float | None = None
        self._status = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._busy:
            self._busy = False
            self._run.failed(self, "connection closed")

    @property
    def open(self) -> bool:
        return self._transport is not None

    def close(self) -> None:
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    def send(self, request: bytes, due_s: float) -> None:
        assert self._transport is not None
        self._due_s, self._busy = due_s, True
        self._head, self._in_body, self._end, self._first_byte_s = b"", False, b"", None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        if not self._in_body:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self._status = self._head[9:12]
            _, found, rest = self._head[: end + 2].partition(b"\r\ncontent-length: ")
            self._chunked = not found
            self._missing_bytes = int(rest.split(b"\r", 1)[0]) if found else 0
            data = self._head[end + 4 :]
            self._in_body = True
        if self._chunked:
            if not data:
                return
            self._run.result.reads += 1
            self._run.result.events += _events(self._end, data)
            if self._first_byte_s is None:
                self._first_byte_s = now_s
            self._end = (self._end + data)[-5:] if len(data) < 5 else data[-5:]
            over = self._end == b"0\r\n\r\n"
        else:
            self._missing_bytes -= len(data)
            over = self._missing_bytes <= 0
        if not over:
            return
        self._busy = False
        if self._status != b"200":
            self._run.failed(self, f"status {self._status.decode()}")
            return
        first_s = None if self._first_byte_s is None else self._first_byte_s - self._due_s
        self._run.answered(self, now_s - self._due_s, first_s, now_s)


def _events(before: bytes, data: bytes) -> int:
    cut = before.endswith(b"\n") and data.startswith(b"\n") and not before.endswith(b"\r\n")
    return data.count(b"\n\n") + cut


class _Run:
    def __init__(self, job: Job) -> None:
        self.result = Result()
        self._job = job
        self._requests = Requests(
            job.prompt,
            max_tokens=job.max_tokens,
            stream=job.stream,
            seed=job.seed,
            keys=job.keys,
            first_key=job.first_key,
        )
        self._failures: Counter[str] = Counter()
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []
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
                lambda: _Connection(self), "127.0.0.1", job.port
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

    def _next(self, connection: _Connection, due_s: float) -> None:
        self._begun += 1
        if self._begun == self._job.requests:
            self._sending = False
        connection.send(self._requests.next(), due_s)

    def answered(
        self, connection: _Connection, latency_s: float, first_s: float | None, now_s: float
    ) -> None:
        result = self.result
        result.answered += 1
        result.latencies_s.append(latency_s)
        if first_s is not None:
            result.first_bytes_s.append(first_s)
        self._last_s = now_s
        self._ready(connection, now_s)

    def failed(self, connection: _Connection, reason: str) -> None:
        self._failures[reason] += 1
        self._last_s = time.monotonic()
        self._ready(connection, self._last_s)

    def _ready(self, connection: _Connection, now_s: float) -> None:
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


async def serve() -> None:
    """Do jobs until standard input ends."""
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        given = orjson.loads(line)
        job = Job(**{**given, "prompt": PromptShape(**given["prompt"])})
        result = await _Run(job).go()
        sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(serve())
