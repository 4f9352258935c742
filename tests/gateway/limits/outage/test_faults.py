"""A store that fails before or after doing what it was asked: every settlement counts once."""

from __future__ import annotations

import asyncio
import random
from datetime import date
from pathlib import Path
from typing import cast

import pytest

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.outage.fallback import FallbackStore
from gateway.limits.outage.states import StoreMode
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from gateway.limits.usage import UsageRecord
from policies.limits.plan import OnStoreFailure
from policies.limits.types import Bucket, CalendarWindow, Concurrency, Dimension, Period, Take
from policies.limits.verdict import Granted
from tests.gateway.limits.outage.faulty import FaultyStore
from tests.gateway.limits.outage.parts import fallback
from tests.gateway.limits.redis.slow_line import SlowLine
from tests.redis_server import RedisServer

DAY = date(2026, 3, 1)
TOKENS = Bucket("t", Dimension.TOTAL_TOKENS, CalendarWindow(10**6, Period.MONTH))
TOGETHER = Bucket("c", Dimension.CONCURRENCY, Concurrency(1_000))
TAKES = [Take(TOKENS, 10), Take(TOGETHER, 1)]


@pytest.mark.parametrize("mode", OnStoreFailure)
@pytest.mark.parametrize("seed", range(25))
async def test_every_settlement_counts_exactly_once(mode: OnStoreFailure, seed: int) -> None:
    rng = random.Random(seed)
    faulty, broken = FaultyStore(), 0.0

    def fails() -> tuple[bool, StoreUnavailable | None]:
        error = StoreUnavailable("faulty", lost=rng.random() < 0.3)
        return rng.random() < 0.5, error if rng.random() < broken else None

    faulty.fails = fails
    store = fallback(faulty, mode, retry_s=0, max_retry_s=0)
    granted = charged = 0

    async def client(name: int) -> None:
        nonlocal granted, charged
        for i in range(10):
            id_, tokens = f"{name}-{i}", rng.randint(0, 30)
            try:
                verdict = await store.reserve("acme", id_, TAKES, 600)
            except StoreUnavailable:
                assert mode is OnStoreFailure.CLOSED
                continue
            assert isinstance(verdict, Granted)
            for _ in range(rng.randint(0, 5)):
                await asyncio.sleep(0)
            if rng.random() < 0.3:
                assert await store.renew("acme", [id_, "another's"], 600) <= 1
            usage = UsageRecord(DAY, "k", "u", "m", tokens, 0, 0, 0)
            granted, charged = granted + 1, charged + tokens
            repeats = rng.choice([1, 1, 2])
            await asyncio.gather(
                *(store.settle("acme", id_, {"t": tokens}, usage) for _ in range(repeats))
            )

    async def weather() -> None:
        nonlocal broken
        for _ in range(20):
            broken = rng.choice([0.0, 0.3, 1.0])
            for _ in range(rng.randint(1, 20)):
                await asyncio.sleep(0)

    await asyncio.gather(weather(), *(client(name) for name in range(8)))
    broken = 0.0
    async with asyncio.timeout(60):
        while store.pending or store.mode is not StoreMode.UP:  # noqa: ASYNC110
            await asyncio.sleep(0)
    rows = await store.usage("acme", DAY, DAY)
    assert sum(row.requests for row in rows) == granted
    assert sum(row.input_tokens for row in rows) == charged
    standings = await store.standing("acme", [TOKENS, TOGETHER])
    assert [s.remaining for s in standings] == [10**6 - charged, 1_000]
    assert not store._records._running


async def test_redis_that_takes_200_ms_is_down_and_nothing_counts_twice(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    line = SlowLine(redis_server, tmp_path / "slow")
    async with line.open() as url:
        redis = RedisStore(connect(url), timeout_s=0.05)
        store = fallback(redis, OnStoreFailure.OPEN, retry_s=0.05)
        line.delay_s = 0.2
        for i in range(100):
            assert isinstance(await store.reserve("acme", f"r{i}", TAKES, 60), Granted)
            assert await store.settle(
                "acme", f"r{i}", {"t": 3}, UsageRecord(DAY, "k", "u", "m", 3, 0, 0, 0)
            )
        assert store.mode.down
        assert store.counters.granted_open == 100, "each was decided without Redis"
        line.delay_s = 0.0
        async with asyncio.timeout(60):
            while store.mode.down or store.pending:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await store.close()
    patient = RedisStore(connect(redis_server.url, timeout_s=10), timeout_s=10)
    rows = await patient.usage("acme", DAY, DAY)
    assert [(row.requests, row.input_tokens) for row in rows] == [(100, 300)]
    standings = await patient.standing("acme", [TOKENS])
    assert standings[0].remaining == 10**6 - 300, "nothing is held in vain"
    await patient.close()


def script_calls(server: RedisServer) -> int:
    stats = cast("dict[str, dict[str, int]]", server.ask("INFO", "commandstats"))
    return stats["cmdstat_evalsha"]["calls"]


@pytest.mark.parametrize("mode", OnStoreFailure)
async def test_a_reservation_that_comes_after_its_own_end_takes_nothing(
    mode: OnStoreFailure, redis_server: RedisServer, tmp_path: Path
) -> None:
    line = SlowLine(redis_server, tmp_path / "slow")
    patient = RedisStore(connect(redis_server.url, timeout_s=10), timeout_s=10)
    async with line.open() as url:
        redis = RedisStore(connect(url, timeout_s=1), timeout_s=1)
        store = fallback(redis, mode, retry_s=0.01, max_retry_s=0.01)
        for other in (patient, redis):  # the scripts and the line are there
            await other.reserve("acme", "before", TAKES, 600)
            await other.settle("acme", "before", {})
        line.barrier = barrier = asyncio.Event()
        reserving = asyncio.create_task(store.reserve("acme", "late", TAKES, 600))
        while not line.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        line.barrier = None
        charged = 0
        if mode is OnStoreFailure.CLOSED:
            with pytest.raises(StoreUnavailable):
                await reserving
        else:
            assert isinstance(await reserving, Granted)
            usage = UsageRecord(DAY, "k", "u", "m", 3, 0, 0, 0)
            assert await store.settle("acme", "late", {"t": 3}, usage)
            charged = 3
        async with asyncio.timeout(60):
            while store.pending or store.mode is not StoreMode.UP:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        before = script_calls(redis_server)
        barrier.set()
        async with asyncio.timeout(60):
            while script_calls(redis_server) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        standings = await patient.standing("acme", [TOKENS, TOGETHER])
        assert [s.remaining for s in standings] == [10**6 - charged, 1_000]
        await store.close()
    await patient.close()


def used(tokens: int) -> UsageRecord:
    return UsageRecord(DAY, "k", "u", "m", tokens, 0, 0, 0)


async def mended(store: FallbackStore) -> None:
    async with asyncio.timeout(60):
        while store.pending or store.mode is not StoreMode.UP:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def counted(server: RedisServer) -> tuple[int, int, list[int]]:
    """Requests, tokens, and what remains of tokens and of concurrency; asked with patience."""
    patient = RedisStore(connect(server.url, timeout_s=10), timeout_s=10)
    rows = await patient.usage("acme", DAY, DAY)
    standings = await patient.standing("acme", [TOKENS, TOGETHER])
    await patient.close()
    return (
        sum(row.requests for row in rows),
        sum(row.input_tokens for row in rows),
        [s.remaining for s in standings],
    )


async def test_redis_that_is_always_slow_is_given_what_was_used(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    line = SlowLine(redis_server, tmp_path / "slow")
    line.delay_s = 0.2
    async with line.open() as url:
        store = fallback(
            RedisStore(connect(url), timeout_s=0.05),
            OnStoreFailure.OPEN,
            failures=1,
            retry_s=0.05,
        )
        for i in range(20):
            assert isinstance(await store.reserve("acme", f"r{i}", TAKES, 60), Granted)
            assert await store.settle("acme", f"r{i}", {"t": 3}, used(3))
        assert isinstance(await store.reserve("acme", "runs", TAKES, 60), Granted)
        async with asyncio.timeout(60):
            while store.pending or await counted(redis_server) != (  # noqa: ASYNC110
                *(20, 60),
                [10**6 - 70, 999],
            ):
                await asyncio.sleep(0.05)
        assert store.mode.down, "it is too slow for requests"
        await store.close()


async def test_what_waits_at_the_end_is_delivered_with_patience(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    line = SlowLine(redis_server, tmp_path / "slow")
    line.delay_s = 0.2
    async with line.open() as url:
        store = fallback(
            RedisStore(connect(url), timeout_s=0.05),
            OnStoreFailure.OPEN,
            retry_s=600,
            close_s=60,
        )
        for i in range(600):
            await store.reserve("acme", f"r{i}", TAKES, 60)
            await store.settle("acme", f"r{i}", {"t": 3}, used(3))
        assert store.pending > 500, "several batches"
        await store.close()
        assert store.counters.dropped == 0
    assert await counted(redis_server) == (600, 1_800, [10**6 - 1_800, 1_000])


async def test_a_failover_behind_one_address_is_followed(
    redis_server: RedisServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    line = SlowLine(own_redis, tmp_path / "line")
    async with line.open() as url:
        redis = RedisStore(connect(url, timeout_s=10), timeout_s=10, lost=lambda: store.lost())
        store = fallback(redis, OnStoreFailure.OPEN, retry_s=0.01)
        await store.reserve("acme", "before", TAKES, 60)
        own_redis.ask("REPLICAOF", "127.0.0.1", "1")
        line.server = redis_server
        await store.reserve("acme", "during", TAKES, 60)
        await mended(store)
        assert await counted(redis_server) == (0, 0, [10**6 - 20, 998])
        for name in ("before", "during"):
            assert await store.settle("acme", name, {"t": 3}, used(3))
        await store.close()
    assert await counted(redis_server) == (2, 6, [10**6 - 6, 1_000])


@pytest.mark.parametrize("mode", OnStoreFailure)
async def test_data_lost_without_a_lost_connection_is_made_up_for_once(
    mode: OnStoreFailure, redis_server: RedisServer
) -> None:
    redis = RedisStore(connect(redis_server.url, timeout_s=10), timeout_s=10)
    store = fallback(redis, mode, retry_s=0.01)
    for name in ("settled", "renewed", "released"):
        await store.reserve("acme", name, TAKES, 60)
    redis_server.ask("FLUSHALL")
    assert await store.settle("acme", "settled", {"t": 30}, used(30))
    assert not await store.settle("acme", "settled", {"t": 30}, used(30))
    await store.settle("acme", "released", {})
    assert await store.renew("acme", ["renewed"], 600) == 1
    await mended(store)
    assert await counted(redis_server) == (1, 30, [10**6 - 40, 999])
    redis_server.ask("FLUSHALL")
    assert await store.settle("acme", "renewed", {"t": 7}, used(7))
    await mended(store)
    assert await counted(redis_server) == (1, 7, [10**6 - 7, 1_000])
    assert store.counters.forgotten == 2
    assert not store._records._running
    await store.close()


async def test_what_another_settled_after_the_lease_is_not_settled_again(
    redis_server: RedisServer,
) -> None:
    now_s = 0.0
    redis = RedisStore(connect(redis_server.url, timeout_s=10), timeout_s=10)
    store = fallback(redis, OnStoreFailure.OPEN, clock=lambda: now_s)
    await store.reserve("acme", "r", TAKES, 60)
    assert await redis.settle("acme", "r", {"t": 5}, used(5))
    now_s = 61.0
    assert not await store.settle("acme", "r", {"t": 5}, used(5))
    assert await counted(redis_server) == (1, 5, [10**6 - 5, 1_000])
    await store.close()


async def test_nothing_is_sent_to_a_store_that_may_have_lost_it() -> None:
    """What has no answer may be done, and is not adopted any more."""
    faulty = FaultyStore()
    store = fallback(faulty, OnStoreFailure.OPEN, retry_s=0)
    assert isinstance(await store.reserve("acme", "r", TAKES, 600), Granted)
    faulty.lose_data()
    failures = iter([StoreUnavailable("faulty")])
    faulty.fails = lambda: (False, next(failures, None))
    store.lost()
    assert await store.settle("acme", "r", {"t": 5}, used(5))
    await mended(store)
    assert [row.input_tokens for row in await store.usage("acme", DAY, DAY)] == [5]
    await store.close()
