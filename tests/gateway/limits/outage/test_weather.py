"""Whatever happens to Redis: a request gets a verdict or hears that limits cannot be checked, the
ledger is exact, and nothing stays held."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
import uvloop

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.limiter import TenantGrant, TenantLimiter
from gateway.limits.outage.fallback import FallbackStore
from gateway.limits.outage.states import StoreMode
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from picker.request.caller import Caller
from picker.request.grant import Grant
from picker.seams.limiter import LimitsUnavailable
from policies.limits.plan import LimitRule, OnStoreFailure, PriceList, Subject, TenantPolicy
from policies.limits.prices import Usage
from policies.limits.types import CalendarWindow, Concurrency, Dimension, Period
from policies.limits.verdict import Denied
from tests.gateway.limits.outage.faulty import FaultyStore
from tests.gateway.limits.outage.parts import fallback
from tests.gateway.limits.redis.weather import Weather
from tests.gateway.limits.test_limiter import Seen
from tests.redis_server import RedisServer

TIMEOUT_S = 0.02
SLOTS = 3
MOST = 10**9


class Site:
    """A tenant's requests through the limiter, the fallback, the line and Redis."""

    def __init__(self, url: str, mode: OnStoreFailure, rng: random.Random) -> None:
        self.rng = rng
        self.redis = RedisStore(connect(url, timeout_s=TIMEOUT_S), timeout_s=TIMEOUT_S)
        self.store: FallbackStore = fallback(
            self.redis, mode, retry_s=0.01, max_retry_s=0.05, close_s=10
        )
        self.policy = TenantPolicy(
            "acme",
            (
                LimitRule("together", Dimension.CONCURRENCY, Concurrency(SLOTS)),
                LimitRule("tokens", Dimension.TOTAL_TOKENS, CalendarWindow(MOST, Period.MONTH)),
            ),
            on_store_failure=mode,
        )
        self.seen = Seen()
        self.limiter = TenantLimiter(
            self.store,
            policy_of=lambda tenant, key: self.policy,
            prices=PriceList,
            observer=self.seen,
            lease_s=60,
        )
        self.charged = self.granted = 0

    async def client(self, name: str, requests: int) -> None:
        caller, subject = Caller(self.policy, key="k"), Subject("acme", "k")
        for i in range(requests):
            task = asyncio.create_task(
                self.limiter.reserve(f"{name}-{i}", caller, subject, Usage(20, 30), guessed=False)
            )
            if self.rng.random() < 0.1:  # the client leaves
                await asyncio.sleep(self.rng.uniform(0, 2 * TIMEOUT_S))
                task.cancel()
            try:
                grant = await task
            except (LimitsUnavailable, asyncio.CancelledError):
                await asyncio.sleep(self.rng.uniform(0, 2 * TIMEOUT_S))
                continue
            if grant is None or isinstance(grant, Denied):
                await asyncio.sleep(self.rng.uniform(0, TIMEOUT_S))
                continue
            await asyncio.sleep(self.rng.uniform(0, TIMEOUT_S))
            if self.rng.random() < 0.2:
                grant.release()
            else:
                self.granted += 1
                self.charged += (tokens := self.rng.randint(0, 50))
                grant.settle(Usage(tokens, 0))

    async def left(self) -> list[int]:
        """Of each limit."""
        buckets = [rule.bucket(Subject("acme", "k")) for rule in self.policy.rules]
        return [one.remaining for one in await self.redis.patient().standing("acme", buckets)]

    async def settled(self) -> None:
        async with asyncio.timeout(60):
            while self.store.mode is not StoreMode.UP or self.limiter._running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def run(
    server: RedisServer,
    socket: Path,
    mode: OnStoreFailure,
    seed: int,
    weather: Callable[[Weather, Site], object],
    *,
    loses_data: bool,
) -> None:
    rng = random.Random(seed)
    line = Weather(server, socket, rng)
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with line.open() as url:
        site = Site(url, mode, rng)
        clients = [asyncio.create_task(site.client(f"c{i}", 12)) for i in range(12)]
        while any(not client.done() for client in clients):
            result = weather(line, site)
            if asyncio.iscoroutine(result):
                await result
            await asyncio.sleep(rng.uniform(0, 2 * TIMEOUT_S))
        await asyncio.gather(*clients)
        line.delay_s, line.resets, line.stalls = (lambda: 0.0), 0.0, 0.0
        line.says, line.deaf = None, False
        await site.settled()
        assert site.seen.failures == 0
        assert not faults, faults
        together, tokens = await site.left()
        assert together == SLOTS, "nothing stays held"
        today = datetime.now(UTC).date()
        if not loses_data:
            assert MOST - tokens == site.charged
            rows = await site.store.usage("acme", today, today)
            assert sum(row.requests for row in rows) == site.granted
            assert sum(row.input_tokens for row in rows) == site.charged
        else:
            await site.client("last", 20)
            await site.settled()
            async with asyncio.timeout(60):
                while await site.store.usage_slots(today, today) != ["acme"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        await site.limiter.close()


def around_the_timeout(line: Weather, site: Site) -> None:
    middle_s = site.rng.choice([0.3, 0.5, 0.9, 1.0, 1.1, 2.0, 4.0]) * TIMEOUT_S / 2
    line.delay_s = lambda: site.rng.uniform(0.5, 1.5) * middle_s


def stalls(line: Weather, site: Site) -> None:
    around_the_timeout(line, site)
    line.stalls = site.rng.choice([0.0, 0.05, 0.5])
    line.deaf = site.rng.random() < 0.2


def resets(line: Weather, site: Site) -> None:
    line.resets = site.rng.choice([0.0, 0.1, 0.6])
    line.delay_s = lambda: site.rng.uniform(0, TIMEOUT_S)


def pauses(line: Weather, site: Site) -> object:
    pause_ms = round(1_000 * TIMEOUT_S * site.rng.choice([0.5, 1.2, 2, 5]))
    if site.rng.random() < 0.3:
        line.server.ask("SCRIPT", "FLUSH")
    return asyncio.to_thread(line.server.ask, "CLIENT", "PAUSE", pause_ms, "ALL")


REFUSALS = (
    *("LOADING Redis is loading the dataset in memory", "READONLY You can't write", "ERR unknown"),
    *("OOM command not allowed when used memory > 'maxmemory'.", "NOSCRIPT No matching script."),
    *("MISCONF Redis is configured to save RDB snapshots", "BUSY Redis is busy", "NOPERM no"),
)


def refusals(line: Weather, site: Site) -> None:
    given = site.rng.choice([*REFUSALS, None, None, None])
    line.says = None if given is None else f"-{given}\r\n".encode()


def emptied(line: Weather, site: Site) -> None:
    around_the_timeout(line, site)
    if site.rng.random() < 0.3:
        line.server.ask("FLUSHALL")


@pytest.mark.parametrize("mode", OnStoreFailure)
@pytest.mark.parametrize("weather", [around_the_timeout, stalls, resets, pauses, refusals, emptied])
def test_any_weather(
    weather: Callable[[Weather, Site], object],
    mode: OnStoreFailure,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    loses_data = weather is emptied
    uvloop.run(run(redis_server, tmp_path / "w", mode, 7, weather, loses_data=loses_data))


def test_restarts(own_redis: RedisServer, tmp_path: Path) -> None:
    def restarts(line: Weather, site: Site) -> object:
        def again() -> None:
            own_redis.kill()
            own_redis.start()

        return asyncio.to_thread(again) if site.rng.random() < 0.2 else None

    mode = OnStoreFailure.OPEN
    uvloop.run(run(own_redis, tmp_path / "w", mode, 7, restarts, loses_data=True))


def test_timeouts_that_pass_at_once_are_timeouts(redis_server: RedisServer) -> None:
    """uvloop's timer of a time that is less than half a millisecond away has no `when`."""

    async def ask() -> None:
        hasty = RedisStore(connect(redis_server.url), timeout_s=0.0002)
        for _ in range(20):
            calls = (hasty.check() for _ in range(5))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert all(one is None or isinstance(one, StoreUnavailable) for one in answers)
        await hasty.close()

    uvloop.run(ask())


async def test_a_reservation_that_is_granted_late_is_not_in_the_way_of_the_next_try() -> None:
    faulty = FaultyStore()
    store = fallback(faulty, OnStoreFailure.SHARE, share=lambda: Fraction(1, 2), retry_s=0)
    rules = (LimitRule("together", Dimension.CONCURRENCY, Concurrency(2)),)
    policy = TenantPolicy("acme", rules, on_store_failure=OnStoreFailure.SHARE)
    subject = Subject("acme", "k")

    async def left() -> int:
        return (await faulty.standing("acme", [rules[0].bucket(subject)]))[0].remaining

    async def until_it_is_given_back(_: float) -> None:
        while not await left():  # noqa: ASYNC110
            await asyncio.sleep(0)

    limiter = TenantLimiter(
        store,
        policy_of=lambda tenant, key: policy,
        prices=PriceList,
        observer=Seen(),
        lease_s=60,
        sleep=until_it_is_given_back,
    )
    caller = Caller(policy, key="k")

    async def reserve(name: str) -> Grant | Denied | None:
        return await limiter.reserve(name, caller, subject, Usage(1, 1), guessed=False)

    failures = iter([True, True])
    faulty.fails = lambda: (True, StoreUnavailable("late") if next(failures, False) else None)
    first = await reserve("first")
    second = await reserve("second")  # the share has one place; Redis has granted it, but late
    assert isinstance(first, TenantGrant)
    assert isinstance(second, TenantGrant), "Redis answers again, and has room for two"
    assert second.id in second.ticket
    first.release()
    second.release()
    await limiter.drained()
    async with asyncio.timeout(60):
        while store.mode is not StoreMode.UP:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert await left() == 2
