"""The scraper: keeps the signals and the model lists of all replicas fresh."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from picker.signals.engines import Engine
from picker.signals.fetch import Failure, Fetcher, FetchError, Upstream
from picker.signals.target import Target
from picker.state.endpoints import Signals
from picker.state.models import ServedModel

__all__ = ["ScrapeSettings", "ScrapeSink", "ScrapeStats", "ScrapedPool", "Scraper"]

logger = logging.getLogger(__name__)

_FIRST_SPREAD_S = 0.001
"""New endpoints are first read this long after each other."""
_JITTER = 0.1
_SHORTEST_S = 0.05
"""However often it is poked, an endpoint is not read more often than this."""


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    """How often and how patiently replicas are read."""

    interval_s: float = 0.25
    """Between two reads of a replica that has requests."""
    idle_interval_s: float = 1.0
    """Between two reads of an idle or failed replica."""
    timeout_s: float = 1.0
    models_interval_s: float = 10.0
    """Between two reads of /v1/models."""
    busy_for_s: float = 2.0
    """A replica counts as having requests this long after one was sent to it."""
    max_body_bytes: int = 8 << 20
    max_concurrent: int = 128
    max_concurrent_suspect: int = 32
    """Of the replicas whose last read failed, which may hang, so many are read at a time."""


@dataclass(frozen=True, slots=True)
class ScrapedPool:
    """What the scraper needs to know about a pool."""

    name: str
    engine: Engine | None = None
    """None: told from the metrics."""
    upstream: Upstream = field(default_factory=Upstream)


@dataclass(slots=True)
class ScrapeStats:
    """Counts since the start."""

    scrapes: int = 0
    model_reads: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """By Failure."""


class ScrapeSink(Protocol):
    """Takes what was read. ``started_s``: scraper's clock when the read was begun, so that what
    was decided later is known not to be in it."""

    def apply_signals(
        self, pool: str, address: str, signals: Signals, started_s: float
    ) -> None: ...

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None: ...

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None: ...


class _Watched:
    """An endpoint with its place in time: either a timer or a task, never both."""

    __slots__ = ("again", "busy_until_s", "due_s", "pool", "target", "task", "timer")

    def __init__(self, pool: ScrapedPool, target: Target) -> None:
        self.pool = pool
        self.target = target
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.due_s = 0.0
        self.busy_until_s = 0.0
        self.again = False


class Scraper:
    """Reads every endpoint on its own rhythm. Use as an async context manager.

    ``clock`` is a monotonic clock in seconds, the one that the sink's state uses.
    """

    def __init__(
        self,
        sink: ScrapeSink,
        settings: ScrapeSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.stats = ScrapeStats()
        self._sink = sink
        self._settings = settings
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - phases, nothing secret
        self._pools: dict[str, ScrapedPool] = {}
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lane = asyncio.Semaphore(settings.max_concurrent)
        self._suspect_lane = asyncio.Semaphore(settings.max_concurrent_suspect)
        self._fetcher = Fetcher(
            timeout_s=settings.timeout_s,
            max_body_bytes=settings.max_body_bytes,
            keep_alive_s=4.0,  # below the 5 s after which uvicorn closes
        )
        self._open = False

    async def __aenter__(self) -> Self:
        await self._fetcher.open()
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stops everything; afterwards the sink hears nothing more."""
        self._open = False
        for watched in list(self._watched.values()):
            self._forget(watched)
        self._watched.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._fetcher.close()

    def sync(self, pool: ScrapedPool, addresses: Iterable[str]) -> None:
        """Make the endpoints of a pool be these; new ones are read at once, nearly. Raises
        RuntimeError outside the context manager."""
        if not self._open:
            raise RuntimeError("the scraper is not running")
        wanted = dict.fromkeys(addresses)
        changed = self._pools.get(pool.name) not in (None, pool)
        self._pools[pool.name] = pool
        for key, watched in list(self._watched.items()):
            if key[0] == pool.name and (changed or key[1] not in wanted):
                del self._watched[key]
                self._forget(watched)
        new = [address for address in wanted if (pool.name, address) not in self._watched]
        for place, address in enumerate(new):
            target = Target(address, pool.engine, pool.upstream)
            watched = self._watched[pool.name, address] = _Watched(pool, target)
            self._wake_in(watched, place * _FIRST_SPREAD_S)

    def drop(self, pool: str) -> None:
        """The pool is gone."""
        if pool in self._pools:
            self.sync(self._pools[pool], ())
            del self._pools[pool]

    def touch(self, pool: str, address: str) -> None:
        """A request was sent to the endpoint: read it at the busy rhythm for a while."""
        watched = self._watched.get((pool, address))
        if watched is None:
            return
        now_s = self._clock()
        watched.busy_until_s = now_s + self._settings.busy_for_s
        if watched.timer is not None and watched.due_s > now_s + self._settings.interval_s:
            self._wake_in(watched, self._settings.interval_s * self._rng.random())

    def poke(self, pool: str, address: str) -> None:
        """Read the endpoint now: the data plane could not reach it, or it has just changed."""
        watched = self._watched.get((pool, address))
        if watched is None:
            return
        if watched.task is not None:
            watched.again = True
        else:
            self._wake_in(watched, self._soonest_s(watched))

    def _soonest_s(self, watched: _Watched) -> float:
        return max(0.0, watched.target.started_s + _SHORTEST_S - self._clock())

    def _wake_in(self, watched: _Watched, wait_s: float) -> None:
        if watched.timer is not None:
            watched.timer.cancel()
        watched.due_s = self._clock() + wait_s
        watched.timer = asyncio.get_running_loop().call_later(wait_s, self._start, watched)

    def _start(self, watched: _Watched) -> None:
        watched.timer = None
        if not self._open:
            return
        task = asyncio.get_running_loop().create_task(self._scrape(watched))
        watched.task = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(watched, done))

    def _ended(self, watched: _Watched, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        watched.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stats.failures["internal"] += 1
            logger.error("reading %s failed", watched.target.address, exc_info=error)
        if self._watched.get((watched.pool.name, watched.target.address)) is not watched:
            return
        again, watched.again = watched.again, False
        self._wake_in(watched, self._soonest_s(watched) if again else self._wait_s(watched))

    def _wait_s(self, watched: _Watched) -> float:
        now_s, settings = self._clock(), self._settings
        target = watched.target
        hurry = target.doubtful or now_s < watched.busy_until_s or target.has_requests
        interval_s = settings.interval_s if hurry else settings.idle_interval_s
        interval_s *= 1 + _JITTER * (2 * self._rng.random() - 1)
        return max(0.001, target.started_s + interval_s - now_s)

    def _forget(self, watched: _Watched) -> None:
        if watched.timer is not None:
            watched.timer.cancel()
            watched.timer = None
        if watched.task is not None:
            watched.task.cancel()

    async def _scrape(self, watched: _Watched) -> None:
        target, pool = watched.target, watched.pool
        async with self._suspect_lane if target.failures else self._lane:
            target.started_s = started_s = self._clock()
            self.stats.scrapes += 1
            try:
                signals = await target.read_signals(self._fetcher)
            except FetchError as error:
                self._failed(watched, error)
                return
            if target.appearing:  # no candidate before its models are known
                await self._read_models(watched)
                logger.info("pool %s: %s answers (%s)", pool.name, target.address, target.engine)
            models_due = target.succeeded(signals, started_s)
            self._sink.apply_signals(pool.name, target.address, signals, started_s)
            if models_due:
                await self._read_models(watched)

    async def _read_models(self, watched: _Watched) -> None:
        target, pool = watched.target, watched.pool
        started_s = self._clock()
        self.stats.model_reads += 1
        try:
            models = await target.read_models(
                self._fetcher, started_s, self._settings.models_interval_s
            )
        except FetchError as error:
            self.stats.failures[error.kind] += 1
            if str(error) != target.models_problem:
                logger.warning("pool %s: %s: %s", pool.name, target.address, error)
            target.models_problem = str(error)
            return
        target.models_problem = ""
        self._sink.apply_models(pool.name, target.address, models, started_s)

    def _failed(self, watched: _Watched, error: FetchError) -> None:
        target, pool = watched.target, watched.pool
        self.stats.failures[error.kind] += 1
        if not target.failed_with(error):
            if error.kind is Failure.LOCAL and self.stats.failures[error.kind] % 1000 == 1:
                logger.error("cannot read replicas, a limit of this machine is hit: %s", error)
            return
        reason = str(error)
        if reason != target.failed_reason:
            logger.warning("pool %s: %s is out: %s", pool.name, target.address, reason)
        target.failed_reason = reason
        self._sink.mark_failed(pool.name, target.address, reason, target.started_s)
