"""The client: sends a workload's requests when they are due, reads the answers, takes the times.

Times of a run are seconds of the model: wall time divided by the time scale.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import orjson

from loadtests.lab.live.answer import StreamedAnswer, said
from loadtests.lab.outcome import REFUSED, UNKNOWN, Served
from loadtests.workloads import bodies
from loadtests.workloads.sessions import Request
from loadtests.workloads.traffic import Traffic

Api = bodies.Api

_CONNECT_S: Final = 30.0
_KEEP_ALIVE_S: Final = 2.0
"""Shorter than servers keep idle connections, so that no request meets a connection that is being
closed."""
_READ_BYTES: Final = 1 << 18
_BEAT_S: Final = 0.02
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the client itself was, in wall seconds."""

    sent_late_s: list[float] = field(default_factory=list)
    """For each request: from when it was due until it was written."""
    loop_s: list[float] = field(default_factory=list)
    """For each beat of the event loop: how late it was; whatever came then had to wait as long."""


@dataclass(slots=True)
class Sent:
    """The client's view of a run."""

    served: list[Served] = field(default_factory=list)
    """In the order of their ends."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failed requests by kind of failure."""
    said: dict[str, str] = field(default_factory=dict)
    """By kind of failure, the server's message about the first of them, if there was one."""
    duration_s: float = 0.0
    lag: Lag = field(default_factory=Lag)
    uncounted: int = 0
    """Answers without usage: their tokens are estimates."""


class LoadClient:
    """Sends all requests of a traffic to one URL. It runs once."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        traffic: Traffic,
        *,
        model: str,
        api: Api,
        time_scale: float,
        timeout_s: float | None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """``timeout_s``: time of the model after which a client goes away; None: never.
        ``on_progress`` is called with the number of requests that have ended."""
        self.sent = Sent()
        self._http = http
        self._url = url + bodies.PATHS[api]
        self._api: Api = api
        self._model = model
        self._traffic = traffic
        self._scale = time_scale
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._began = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._crash: BaseException | None = None
        self._ended = asyncio.Event()

    @staticmethod
    def session() -> aiohttp.ClientSession:
        """An HTTP session for a client: as many connections as there are requests, and no time
        limit."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            read_bufsize=_READ_BYTES,
        )

    @property
    def now_s(self) -> float:
        """Time of the run so far."""
        return (time.monotonic() - self._began) / self._scale

    async def run(self) -> Sent:
        """Run until the traffic has ended and every request is answered or has failed."""
        self._began = time.monotonic()
        beat = asyncio.create_task(self._beat())
        try:
            await self._send_all()
        finally:
            beat.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(beat, *self._tasks, return_exceptions=True)
        self.sent.duration_s = self.now_s
        return self.sent

    async def _send_all(self) -> None:
        while True:
            if self._crash is not None:
                raise self._crash
            for request in self._traffic.take(self.now_s):
                task = asyncio.create_task(self._send(request))
                self._tasks.add(task)
                task.add_done_callback(self._done)
            next_s = self._traffic.next_s()
            if next_s is None and not self._traffic.in_flight:
                return
            await self._until(next_s)

    async def _until(self, next_s: float | None) -> None:
        """Wait until a request is due, or one has ended and may bring another."""
        self._ended.clear()
        wait_s = None if next_s is None else (next_s - self.now_s) * self._scale
        if wait_s is not None and wait_s <= 0:
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._ended.wait()
        except TimeoutError:
            return

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._crash = self._crash or task.exception()
        self._ended.set()

    async def _send(self, request: Request) -> None:
        answer, problem, refused = StreamedAnswer(), "", False
        timeout_s = None
        if self._timeout_s is not None:
            timeout_s = (request.arrival_s + self._timeout_s - self.now_s) * self._scale
        try:
            async with asyncio.timeout(timeout_s):
                refused, problem = await self._exchange(request, answer)
        except TimeoutError:
            problem = "the client went away"
        except aiohttp.ClientConnectionError as error:
            problem = f"connection: {type(error).__name__}"
            answer.said = str(error)
        except aiohttp.ClientError as error:
            problem = f"stream: {type(error).__name__}"
            answer.said = str(error)
        self._note(request, answer, problem, refused=refused)

    async def _exchange(self, request: Request, answer: StreamedAnswer) -> tuple[bool, str]:
        """Whether the request was refused, and what went wrong, "" for nothing."""
        body = orjson.dumps(bodies.body(request, self._model, self._api))
        headers = {"content-type": "application/json", **bodies.headers(request)}
        late_s = (self.now_s - request.arrival_s) * self._scale
        self.sent.lag.sent_late_s.append(late_s)
        async with self._http.post(self._url, data=body, headers=headers) as response:
            if response.status != _OK:
                answer.said = said(await response.read())
                return True, f"status {response.status}"
            async for data in response.content.iter_any():
                answer.feed(data, self.now_s)
        return False, answer.problem

    def _note(
        self, request: Request, answer: StreamedAnswer, problem: str, *, refused: bool
    ) -> None:
        now_s, usage = self.now_s, answer.usage
        finished_s = now_s if problem or answer.last_token_at is None else answer.last_token_at
        self.sent.served.append(
            Served(
                id=request.id,
                session=request.session,
                tenant=request.tenant,
                replica=REFUSED if refused else UNKNOWN,
                arrival_s=request.arrival_s,
                first_token_s=answer.first_token_at,
                finished_s=finished_s,
                input_tokens=usage.prompt_tokens if usage else request.prompt_tokens,
                cached_tokens=usage.cached_tokens if usage else None,
                expected_cached_tokens=None,
                output_tokens=usage.completion_tokens if usage else answer.token_events,
                failed=bool(problem),
            )
        )
        if problem:
            self.sent.errors[problem] += 1
            if answer.said:
                self.sent.said.setdefault(problem, answer.said)
            self._traffic.failed(request, now_s)
        else:
            self.sent.uncounted += usage is None
            tokens = usage.completion_tokens if usage else None
            self._traffic.answered(request, now_s, text=answer.text, tokens=tokens)
        if self._on_progress is not None:
            self._on_progress(len(self.sent.served))

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            self.sent.lag.loop_s.append(max(0.0, loop.time() - due))
