"""Workers over one Redis whose clock is set: some are killed, and clients ask for all they get."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import orjson

from gateway.limits.limiter import TenantLimiter
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from loadtests.lab.limits.history import History, Seen, Tokens
from picker.request.answer import Decision
from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.request.report import Report
from picker.seams.peers import Alone
from policies.limits.plan import LimitRule, PriceList, Subject, TenantPolicy
from policies.limits.prices import Usage
from policies.limits.types import Bucket, Dimension, TokenBucket
from tests.gateway.limits.redis import script_clock
from tests.picker.fleet import MODEL, Fleet, ask, end_of, fleet, head
from tests.redis_server import RedisServer

TENANT: Final = "acme"
START_MS: Final = 1_800_000_000_000
FLUSH_MS: Final = 50
"""Within which Envoy reports an end."""
TICK_MS: Final = 100
ASK_MS: Final = 15
KILL_MS: Final = 1_500
AGAIN_MS: Final = 1_000
"""From a death until a new worker is there."""
LONGEST_MS: Final = 400
"""Of a request."""
PROMPT_TOKENS: Final = 20
OUTPUT_TOKENS: Final = 40


class Charges:
    """A limit observer that adds up."""

    def __init__(self) -> None:
        self.tokens = 0

    def refused(self, tenant: str, bucket: Bucket) -> None: ...

    def would_refuse(self, tenant: str, bucket: Bucket) -> None: ...

    def charged(self, subject: Subject, usage: Usage, cost_micros: int) -> None:
        self.tokens += usage.input_tokens + usage.output_tokens

    def unsettled(self) -> None:
        raise AssertionError("a settlement failed")


class Door:
    """Everybody is the same tenant."""

    def __init__(self, policy: TenantPolicy) -> None:
        self._policy = policy

    def identify(self, head: RequestHead) -> Caller:
        return Caller(self._policy)


Event = Callable[[], Awaitable[None]]


@dataclass(eq=False)
class Worker:
    """One picker, with its own connection to Redis."""

    name: str
    made: Fleet
    limiter: TenantLimiter
    store: RedisStore

    async def settled(self) -> None:
        """Return when what it settles is in Redis."""
        await asyncio.sleep(0)
        while self.limiter._running:
            await asyncio.gather(*self.limiter._running)


class Line(Alone):
    """Passes ends of requests to the worker that decided them, if it is there."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def ended(self, report: Report) -> None:
        owners = [one for one in self._place.workers if one.name == report.owner]
        if owners:
            self._place.after(1, partial(self._pass, owners[0], report))

    async def _pass(self, worker: Worker, report: Report) -> None:
        if worker in self._place.workers:
            worker.made.picker.flights.peer_ended(report)
            await worker.settled()


class Place:
    """The whole, run event by event."""

    def __init__(
        self,
        server: RedisServer,
        rule: TokenBucket,
        *,
        seed: int,
        lease_s: float = 2.0,
        workers: int = 4,
        known_ms: int = 30,
    ) -> None:
        """``known_ms``: from a death until the others know of it."""
        self.now_ms = START_MS
        self.workers: list[Worker] = []
        self.seen: list[Seen] = []
        self.charges = Charges()
        self._server = server
        self._lease_s, self._size, self._known_ms = lease_s, workers, known_ms
        self._rng = random.Random(seed)
        limit = LimitRule("tokens", Dimension.TOTAL_TOKENS, rule, ())
        self._policy = TenantPolicy(TENANT, (limit,), models=("*",), prices=PriceList([]))
        self._events: list[tuple[int, int, Event]] = []
        self._order, self._names = itertools.count(), itertools.count()
        self._started: list[Worker] = []
        self._ends_ms = 0

    def after(self, ms: int, event: Event) -> None:
        """Let it happen so much later."""
        heapq.heappush(self._events, (self.now_ms + ms, next(self._order), event))

    async def run(self, seconds: int) -> History:
        """Clients ask for so long; then all that runs comes to its end."""
        self._server.ask("FLUSHALL")
        self._set_clock()
        for _ in range(self._size):
            self._start()
        await self._tell_live()
        self._ends_ms = self.now_ms + 1_000 * seconds
        self.after(0, self._ask)
        self.after(KILL_MS, self._kill)
        self.after(TICK_MS, self._tick)
        self.after(0, self._renew)
        while self._events:
            self.now_ms, _, event = heapq.heappop(self._events)
            self._set_clock()
            await event()
        for worker in self._started:
            await worker.store.close()
        return History(tuple(self.seen), {}, charged=self.charges.tokens, rested=True)

    # -- workers

    def _start(self) -> None:
        store = RedisStore(
            connect(self._server.url, timeout_s=10), timeout_s=10, clock_ms=lambda: self.now_ms
        )
        limiter = TenantLimiter(
            store,
            policy_of=lambda tenant, key: self._policy,
            prices=lambda: PriceList([]),
            observer=self.charges,
            lease_s=self._lease_s,
            wall_s=lambda: self.now_ms / 1_000,
            now_s=lambda: self.now_ms / 1_000,
        )
        name = f"w{next(self._names)}"
        made = fleet(name=name, gate=Door(self._policy), limiter=limiter, peers=Line(self))
        made.clock.now_s = self.now_ms / 1_000
        worker = Worker(name, made, limiter, store)
        self.workers.append(worker)
        self._started.append(worker)

    async def _kill(self) -> None:
        self.workers.remove(self._rng.choice(self.workers))
        self.after(self._known_ms, self._tell_death)
        self.after(AGAIN_MS, self._again)
        self._once_more(KILL_MS, self._kill)

    async def _again(self) -> None:
        self._start()
        await self._tell_live()

    async def _tell_death(self) -> None:
        for worker in self.workers:
            worker.made.picker.flights.picker_died()
        await self._tell_live()

    async def _tell_live(self) -> None:
        live = {worker.name for worker in self.workers}
        for worker in self.workers:
            worker.made.picker.flights.pickers_live(live)
            await worker.settled()

    async def _tick(self) -> None:
        for worker in self.workers:
            worker.made.picker.flights.tick()
            await worker.settled()
        self._once_more(TICK_MS, self._tick, still_s=4)

    async def _renew(self) -> None:
        for worker in self.workers:
            await worker.limiter._renew_old()
        self._once_more(round(self._lease_s / 3 * 1_000), self._renew)

    # -- clients and the data plane

    async def _ask(self) -> None:
        rng = self._rng
        self._once_more(rng.randint(1, 2 * ASK_MS), self._ask)
        worker = rng.choice(self.workers)
        used = Tokens(rng.randint(1, PROMPT_TOKENS), rng.randint(1, OUTPUT_TOKENS))
        prompt = list(range(1_000, 1_000 + used.input))
        body = {"model": MODEL, "prompt": prompt, "max_tokens": used.output}
        outcome = await ask(worker.made, orjson.dumps(body), head("/v1/completions"))
        if not isinstance(outcome, Decision):
            assert outcome.status == 429, outcome
            return
        now_s = self.now_ms / 1_000
        self.seen.append(
            Seen(outcome.id, now_s, now_s, now_s, 200, reserved=used, usage=used, whole=True)
        )
        report = end_of(
            outcome,
            worker.name,
            input_tokens=used.input,
            output_tokens=used.output,
            ticket=str(outcome.metadata["ticket"]),
        )
        took_ms = rng.randint(20, LONGEST_MS) + rng.randint(0, FLUSH_MS)
        self.after(took_ms, partial(self._ended, report))

    async def _ended(self, report: Report) -> None:
        """One of the workers has the line on which Envoy reports it."""
        hearing = self._rng.choice(self.workers)
        hearing.made.picker.complete(report)
        await hearing.settled()

    # -- time

    def _once_more(self, ms: int, event: Event, *, still_s: int = 0) -> None:
        if self.now_ms + ms <= self._ends_ms + 1_000 * still_s:
            self.after(ms, event)

    def _set_clock(self) -> None:
        pairs = script_clock.keys_at(self.now_ms).items()
        self._server.ask("MSET", *(word for pair in pairs for word in pair))
        for worker in self.workers:
            worker.made.clock.now_s = self.now_ms / 1_000
