"""The scraper: keeps the signals and the model lists of all replicas fresh."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from picker.signals.fetch import Failure, Fetcher, FetchError
from picker.signals.news import News
from picker.signals.settings import PATIENCE, ScrapedPool, ScrapeSettings
from picker.signals.sharing import Sharing, Unshared
from picker.signals.sink import ScrapeSink
from picker.signals.target import NoSignals, Target
from picker.signals.watched import Watched
from picker.state.lack import Lack

logger = logging.getLogger(__name__)

_FIRST_SPREAD_S: Final = 0.001
"""New endpoints are first read this long after each other."""
_JITTER: Final = 0.1
_SHORTEST_S: Final = 0.05
"""However often it is poked, an endpoint is not read more often than this."""
_SOON_S: Final = 0.001
_KEEP_ALIVE_S: Final = 4.0
"""Below the 5 s after which uvicorn closes."""


@dataclass(slots=True)
class ScrapeStats:
    """Counts of this worker's own reads since its start."""

    scrapes: int = 0
    model_reads: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """By Failure."""


class Scraper:
    """Keeps the news of every endpoint fresh, each on its own rhythm.

    An endpoint is read by one of the workers that share the reading; every worker reads it once
    when it is new, when it is poked, and when there is no news of it for too long. ``clock`` is
    CLOCK_MONOTONIC in seconds, the same for all workers of a host.
    """

    def __init__(
        self,
        settings: ScrapeSettings | None = None,
        *,
        sharing: Sharing | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.stats = ScrapeStats()
        self._sharing = sharing or Unshared()
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - phases, nothing secret
        self._sink: ScrapeSink | None = None
        self._pools: dict[str, ScrapedPool] = {}
        self._watched: dict[tuple[str, str], Watched] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetcher = Fetcher(keep_alive_s=_KEEP_ALIVE_S)
        self._use(settings or ScrapeSettings())

    def start(self, sink: ScrapeSink) -> None:
        """Give ``sink`` what is read from now on; must run in the loop that reads."""
        self._sink = sink
        self._fetcher.open()
        news = News(self._watched, sink, lambda: self._settings, self._poke, clock=self._clock)
        self._sharing.listen(news)

    async def close(self) -> None:
        """Stop everything; afterwards the sink hears nothing more."""
        self._sink = None
        for watched in list(self._watched.values()):
            self._forget(watched)
        self._watched.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._fetcher.close()

    def configure(self, settings: ScrapeSettings) -> None:
        """Take over new settings; what is known of the endpoints stays."""
        if settings == self._settings:
            return
        self._use(settings)
        for watched in self._watched.values():
            if watched.timer is not None:
                self._wake_in(watched, self._wait_s(watched))

    def _use(self, settings: ScrapeSettings) -> None:
        self._settings = settings
        self._lane = asyncio.Semaphore(settings.max_concurrent)
        self._suspect_lane = asyncio.Semaphore(settings.max_concurrent_suspect)
        self._fetcher.limit(timeout_s=settings.timeout_s, max_body_bytes=settings.max_body_bytes)

    def sync(self, pool: ScrapedPool, addresses: Iterable[str]) -> None:
        """Make the endpoints of a pool be these; new ones are read at once, nearly. Raises
        RuntimeError before `start` and after `close`."""
        if self._sink is None:
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
            watched = self._watched[pool.name, address] = Watched(pool, target)
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
        if watched.timer is None or watched.due_s <= now_s + self._settings.interval_s:
            return
        if watched.is_ours(self._sharing):
            self._wake_in(watched, self._settings.interval_s * self._rng.random())
        elif watched.due_s > now_s + PATIENCE * self._settings.interval_s:
            self._wake_in(watched, PATIENCE * self._settings.interval_s)

    def poke(self, pool: str, address: str) -> None:
        """Read the endpoint now: the data plane could not reach it, or it has just changed."""
        watched = self._watched.get((pool, address))
        if watched is not None:
            self._poke(watched)

    def _poke(self, watched: Watched) -> None:
        watched.has_news = False
        watched.target.urgent = True
        if watched.task is not None:
            watched.again = True
        else:
            self._wake_in(watched, self._soonest_s(watched))

    def _soonest_s(self, watched: Watched) -> float:
        return max(0.0, watched.target.started_s + _SHORTEST_S - self._clock())

    def _wake_in(self, watched: Watched, wait_s: float) -> None:
        if watched.timer is not None:
            watched.timer.cancel()
        watched.due_s = self._clock() + wait_s
        watched.timer = asyncio.get_running_loop().call_later(wait_s, self._wake, watched)

    def _wake(self, watched: Watched) -> None:
        watched.timer = None
        if watched.has_news:
            watched.has_news = False
            wait_s = self._wait_s(watched)
            if wait_s > _SOON_S:
                self._wake_in(watched, wait_s)
                return
        self._start(watched)

    def _start(self, watched: Watched) -> None:
        if self._sink is None:
            return
        task = asyncio.get_running_loop().create_task(self._scrape(watched, self._sink))
        watched.task = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(watched, done))

    def _ended(self, watched: Watched, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        watched.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stats.failures["internal"] += 1
            logger.error("reading %s failed", watched.target.address, exc_info=error)
        if self._watched.get((watched.pool.name, watched.target.address)) is not watched:
            return
        again, watched.again = watched.again, False
        self._wake_in(watched, self._soonest_s(watched) if again else self._wait_s(watched))

    def _wait_s(self, watched: Watched) -> float:
        now_s, settings = self._clock(), self._settings
        target = watched.target
        hurry = target.doubtful or now_s < watched.busy_until_s or target.has_requests
        interval_s = settings.interval_s if hurry else settings.idle_interval_s
        interval_s *= 1 + _JITTER * (2 * self._rng.random() - 1)
        if not watched.is_ours(self._sharing):
            interval_s *= PATIENCE
        return max(_SOON_S, target.started_s + interval_s - now_s)

    def _forget(self, watched: Watched) -> None:
        if watched.timer is not None:
            watched.timer.cancel()
            watched.timer = None
        if watched.task is not None:
            watched.task.cancel()

    async def _scrape(self, watched: Watched, sink: ScrapeSink) -> None:
        target, pool = watched.target, watched.pool
        async with self._suspect_lane if target.failures else self._lane:
            target.started_s = started_s = self._clock()
            self.stats.scrapes += 1
            signals, problem = None, ""
            try:
                signals = await target.look(self._fetcher, started_s)
            except NoSignals as without:
                problem = str(without)
            except FetchError as error:
                self._failed(watched, error, started_s, sink)
                return
            if target.appearing:  # no candidate before its models are known
                await self._read_models(watched, sink)
                engine = target.engine or "engine not known"
                logger.info("pool %s: %s answers (%s)", pool.name, target.address, engine)
            if target.known_s > started_s:
                return  # another worker has read it since
            if problem and problem != target.signals_problem:
                logger.warning(
                    "pool %s: %s does not report its load (%s): it is chosen by what is in flight",
                    *(pool.name, target.address, problem),
                )
            if signals is None:
                models_due = target.succeeded_without(problem, started_s)
                self._lacks(watched, Lack.SIGNALS, problem, started_s, sink)
            else:
                models_due = target.succeeded(signals, started_s)
                sink.apply_signals(pool.name, target.address, signals, started_s)
                self._sharing.apply_signals(pool.name, target.address, signals, started_s)
            if models_due:
                await self._read_models(watched, sink)

    def _lacks(
        self, watched: Watched, lack: Lack, reason: str, started_s: float, sink: ScrapeSink
    ) -> None:
        pool, address = watched.pool.name, watched.target.address
        sink.apply_lack(pool, address, lack, reason, started_s)
        self._sharing.apply_lack(pool, address, lack, reason, started_s)

    async def _read_models(self, watched: Watched, sink: ScrapeSink) -> None:
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
            self._lacks(watched, Lack.MODELS, str(error), started_s, sink)
            return
        target.models_problem = ""
        sink.apply_models(pool.name, target.address, models, started_s)
        self._sharing.apply_models(pool.name, target.address, models, started_s)

    def _failed(
        self, watched: Watched, error: FetchError, started_s: float, sink: ScrapeSink
    ) -> None:
        target, pool = watched.target, watched.pool
        self.stats.failures[error.kind] += 1
        if target.known_s > started_s:
            return  # another worker has read it since
        reason = str(error)
        if not target.failed_with(error, started_s):
            if error.kind is not Failure.LOCAL:
                sink.apply_lack(pool.name, target.address, Lack.ANSWER, reason, started_s)
            elif self.stats.failures[error.kind] % 1000 == 1:
                logger.error("cannot read replicas, a limit of this machine is hit: %s", error)
            return
        if reason != target.failed_reason:
            logger.warning("pool %s: %s is out: %s", pool.name, target.address, reason)
        target.failed_reason = reason
        sink.mark_failed(pool.name, target.address, reason, started_s)
        self._sharing.mark_failed(pool.name, target.address, reason, started_s)
