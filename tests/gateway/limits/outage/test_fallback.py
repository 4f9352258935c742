"""Redis killed, frozen and come back empty, under each of the three modes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date
from fractions import Fraction

import pytest

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.outage.fallback import FallbackStore
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from gateway.limits.usage import UsageRecord
from policies.limits.plan import OnStoreFailure
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Take,
)
from policies.limits.verdict import Denied, Granted, Refusal
from tests.gateway.limits.outage.parts import fallback
from tests.redis_server import RedisServer

DAY = date(2026, 3, 1)
TOKENS = Bucket("t", Dimension.TOTAL_TOKENS, CalendarWindow(100, Period.MONTH), "tokens a month")
TOGETHER = Bucket("c", Dimension.CONCURRENCY, Concurrency(5), "at once")
TAKES = [Take(TOKENS, 10), Take(TOGETHER, 1)]
LEASE_S = 60.0
QUARTER = Fraction(1, 4)


def used(tokens: int) -> UsageRecord:
    return UsageRecord(DAY, "k", "u", "m", tokens, 0, 0, 0)


@asynccontextmanager
async def limits(
    server: RedisServer,
    mode: OnStoreFailure,
    *,
    failures: int = 3,
    timeout_s: float = 2.0,
    share: Callable[[], Fraction] = lambda: QUARTER,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[FallbackStore]:
    store = fallback(
        RedisStore(connect(server.url, timeout_s=timeout_s), timeout_s=timeout_s),
        mode,
        share=share,
        failures=failures,
        retry_s=0.01,
        max_retry_s=0.05,
        clock=clock,
    )
    yield store
    await store.close()


async def recovered(store: FallbackStore) -> None:
    async with asyncio.timeout(60):
        while store.mode.down or store.pending:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


async def standing(store: FallbackStore) -> list[int]:
    return [s.remaining for s in await store.standing("acme", [TOKENS, TOGETHER])]


async def tokens_counted(store: FallbackStore) -> tuple[int, int]:
    rows = await store.usage("acme", DAY, DAY)
    return sum(r.requests for r in rows), sum(r.input_tokens for r in rows)


async def test_open_grants_all_and_makes_up_for_it(own_redis: RedisServer) -> None:
    async with limits(own_redis, OnStoreFailure.OPEN) as store:
        assert isinstance(await store.reserve("acme", "before", TAKES, LEASE_S), Granted)
        own_redis.kill()
        for i in range(20):  # far over the limit
            assert isinstance(await store.reserve("acme", f"r{i}", TAKES, LEASE_S), Granted)
        assert store.mode.down
        assert await store.settle("acme", "before", {"t": 7}, used(7))
        assert await store.settle("acme", "r0", {"t": 11}, used(11))
        assert not await store.settle("acme", "r0", {"t": 11}, used(11))
        own_redis.start()
        await recovered(store)
        # 19 in flight hold 10 each, 18 were charged: over the limit of 100, and over 5 at once
        assert await standing(store) == [0, 0]
        assert await tokens_counted(store) == (2, 18)
        denied = await store.reserve("acme", "after", TAKES, LEASE_S)
        assert isinstance(denied, Denied)
        for i in range(1, 20):
            assert await store.settle("acme", f"r{i}", {})
        assert await standing(store) == [82, 5]
        assert not await store.settle("acme", "r3", {"t": 5}, used(5))
        assert await tokens_counted(store) == (2, 18)


async def test_closed_refuses_and_keeps_settlements(own_redis: RedisServer) -> None:
    async with limits(own_redis, OnStoreFailure.CLOSED) as store:
        await store.reserve("acme", "before", TAKES, LEASE_S)
        own_redis.kill()
        for i in range(3):
            with pytest.raises(StoreUnavailable):
                await store.reserve("acme", f"r{i}", TAKES, LEASE_S)
        assert await store.settle("acme", "before", {"t": 30}, used(30))
        own_redis.start()
        await recovered(store)
        assert await standing(store) == [70, 5]
        assert await tokens_counted(store) == (1, 30)


async def test_share_grants_a_quarter(own_redis: RedisServer) -> None:
    async with limits(own_redis, OnStoreFailure.SHARE) as store:
        own_redis.kill()
        bucket = Take(TOKENS, 5)
        verdicts = [await store.reserve("acme", f"r{i}", [bucket], LEASE_S) for i in range(8)]
        assert [isinstance(verdict, Granted) for verdict in verdicts] == [True] * 5 + [False] * 3
        denied = verdicts[-1]
        assert isinstance(denied, Denied)
        assert (denied.refusal, denied.bucket.limit) == (Refusal.EMPTY, 25)
        assert await store.settle("acme", "r0", {"t": 1}, used(1))
        assert [s.remaining for s in await store.standing("acme", [TOKENS])] == [4]
        own_redis.start()
        await recovered(store)
        assert await standing(store) == [100 - 1 - 4 * 5, 5]


async def test_frozen_redis_delays_few_calls_and_nothing_counts_twice(
    own_redis: RedisServer,
) -> None:
    async with limits(own_redis, OnStoreFailure.OPEN, timeout_s=0.05) as store:
        for i in range(4):
            while not isinstance(await store.reserve("acme", f"b{i}", TAKES, LEASE_S), Granted):
                pass
        own_redis.signal(signal.SIGSTOP)
        for i in range(50):
            assert isinstance(await store.reserve("acme", f"r{i}", TAKES, LEASE_S), Granted)
            assert await store.settle("acme", f"r{i}", {"t": 1}, used(1))
        assert store.mode.down
        for i in range(4):
            assert await store.settle("acme", f"b{i}", {"t": 2}, used(2))
        own_redis.signal(signal.SIGCONT)
        # Three calls had to time out, and what they asked for may be done by Redis only now.
        await recovered(store)
    async with limits(own_redis, OnStoreFailure.CLOSED, timeout_s=10) as patient:
        assert await tokens_counted(patient) == (54, 58)


async def test_many_calls_at_once_wait_for_one_timeout_only(own_redis: RedisServer) -> None:
    timeout_s = 0.05
    async with limits(own_redis, OnStoreFailure.OPEN, timeout_s=timeout_s) as store:
        own_redis.signal(signal.SIGSTOP)
        calls = [store.reserve("acme", f"r{i}", TAKES, LEASE_S) for i in range(200)]
        assert all(isinstance(verdict, Granted) for verdict in await asyncio.gather(*calls))
        assert store.mode.down
        assert store.counters.granted_open == 200
        own_redis.signal(signal.SIGCONT)
        await recovered(store)


async def test_empty_restart_adopts_what_is_in_flight(own_redis: RedisServer) -> None:
    async with limits(own_redis, OnStoreFailure.CLOSED) as store:
        await store.reserve("acme", "one", TAKES, LEASE_S)
        await store.reserve("acme", "two", TAKES, LEASE_S)
        own_redis.kill()
        with pytest.raises(StoreUnavailable):
            await store.reserve("acme", "three", TAKES, LEASE_S)
        assert await store.settle("acme", "two", {"t": 4}, used(4))
        own_redis.start()
        await recovered(store)
        assert await standing(store) == [100 - 10 - 4, 4]
        assert await store.settle("acme", "one", {"t": 6}, used(6))
        assert await standing(store) == [90, 5]
        assert await tokens_counted(store) == (2, 10)


async def test_leases_are_renewed_while_the_store_is_away_and_adopted_as_long(
    own_redis: RedisServer,
) -> None:
    now_s = 0.0
    async with limits(own_redis, OnStoreFailure.OPEN, clock=lambda: now_s) as store:
        await store.reserve("acme", "before", TAKES, LEASE_S)
        await store.reserve("acme", "ends", TAKES, LEASE_S)
        own_redis.kill()
        await store.reserve("acme", "here", TAKES, LEASE_S)
        assert store.mode.down
        now_s = LEASE_S - 1
        assert await store.renew("acme", ["before", "here", "unknown"], 600) == 2
        now_s = LEASE_S + 1
        assert await store.renew("acme", ["before", "here", "ends"], 600) == 2
        own_redis.start()
        await recovered(store)
        assert await standing(store) == [80, 3]
        left_ms = [lease_left_ms(own_redis, name) for name in ("before", "here")]
        assert all(500_000 < left <= 600_000 for left in left_ms)
        assert await store.settle("acme", "here", {"t": 5}, used(5))
        assert await store.renew("acme", ["before", "here"], 600) == 1
        assert store.counters.adopted == 2


async def test_leases_that_were_renewed_without_a_frozen_store_are_renewed_there(
    own_redis: RedisServer,
) -> None:
    async with limits(own_redis, OnStoreFailure.CLOSED) as store:
        assert isinstance(await store.reserve("acme", "r", TAKES, LEASE_S), Granted)
        own_redis.signal(signal.SIGSTOP)
        assert await store.renew("acme", ["r"], 600) == 1
        assert not store.mode.down
        own_redis.signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            while lease_left_ms(own_redis, "r") < 500_000:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert await store.settle("acme", "r", {})


def lease_left_ms(server: RedisServer, reservation_id: str) -> float:
    ends_ms = server.ask("ZSCORE", "penstock:{t:acme}:x", reservation_id)
    return float(str(ends_ms)) - time.time() * 1_000


async def test_the_share_may_change(own_redis: RedisServer) -> None:
    share = QUARTER
    async with limits(own_redis, OnStoreFailure.SHARE, share=lambda: share) as store:
        own_redis.kill()

        async def granted(name: str) -> int:
            verdicts = [
                await store.reserve("acme", f"{name}{i}", [Take(TOGETHER, 1)], LEASE_S)
                for i in range(5)
            ]
            return sum(isinstance(verdict, Granted) for verdict in verdicts)

        assert await granted("a") == 1
        share = Fraction(3, 5)
        assert await granted("b") == 2
        share = QUARTER
        assert await granted("c") == 0
        for wrong in (Fraction(0), Fraction(2)):
            share = wrong
            with pytest.raises(ValueError, match="above 0 and at most 1"):
                await granted("d")
        own_redis.start()


async def test_settlements_that_wait_are_bounded(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = fallback(
        RedisStore(connect(own_redis.url, timeout_s=1), timeout_s=1),
        OnStoreFailure.OPEN,
        max_pending=3,
        close_s=0.01,
    )
    own_redis.kill()
    for i in range(5):
        await store.reserve("acme", f"r{i}", TAKES, LEASE_S)
        await store.settle("acme", f"r{i}", {"t": 1}, used(1))
    assert (store.pending, store.counters.dropped) == (3, 2)
    await store.close()
    assert store.counters.dropped == 5
    assert "3 settlements are lost; in all, of 1 tenants: 3 requests, 3 input" in caplog.text
    assert "'acme': 3 requests, 3 input and 0 output tokens" in caplog.text
