"""What only the memory store can get wrong: that memory is bounded."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

from gateway.limits.memory import MemoryStore
from gateway.limits.store import UsageRecord
from policies.limits.types import Bucket, CalendarWindow, Dimension, Period, Take, TokenBucket
from policies.limits.verdict import Granted

TEN = Bucket("ten", Dimension.REQUESTS, CalendarWindow(10, Period.MONTH))
FAST = TokenBucket(1, 1, 10)


class Clock:
    def __init__(self) -> None:
        self.ms = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000)

    def __call__(self) -> int:
        return self.ms


async def test_200_at_once_against_room_for_10() -> None:
    store = MemoryStore()
    verdicts = await asyncio.gather(
        *(store.reserve("acme", f"r{i}", [Take(TEN, 1)], 60) for i in range(200))
    )
    assert sum(isinstance(verdict, Granted) for verdict in verdicts) == 10


async def test_idle_tenants_are_forgotten() -> None:
    clock = Clock()
    store = MemoryStore(clock_ms=clock)
    for i in range(5_000):
        clock.ms += 1
        bucket = Bucket(f"user {i}", Dimension.REQUESTS, FAST)
        await store.reserve(f"tenant {i}", "r", [Take(bucket, 1)], 60)
        await store.settle(f"tenant {i}", "r", {bucket.key: 1})
    assert len(store._slots) == len(store._hand) < 100


async def test_settled_reservations_leave_the_heap() -> None:
    store = MemoryStore()
    bucket = Bucket("fast", Dimension.REQUESTS, TokenBucket(10**9, 1, 1))
    for i in range(10_000):
        await store.reserve("acme", f"r{i}", [Take(bucket, 1)], 3_600)
        await store.settle("acme", f"r{i}", {"fast": 1})
    assert len(store._due) < 2_000
    assert store._entries == 0


async def test_crashed_reservations_are_forgotten_in_the_end() -> None:
    clock = Clock()
    store = MemoryStore(clock_ms=clock, late_s=100)
    bucket = Bucket("b", Dimension.REQUESTS, TokenBucket(10, 1, 60_000))
    await store.reserve("acme", "r", [Take(bucket, 10)], 5)
    clock.ms += 4_999
    assert [s.remaining for s in await store.standing("acme", [bucket])] == [0]
    clock.ms += 1
    assert [s.remaining for s in await store.standing("acme", [bucket])] == [10]
    clock.ms += 100_000
    assert not await store.settle("acme", "r", {"b": 10})
    assert store._entries == 0


async def test_old_usage_is_forgotten() -> None:
    clock = Clock()
    store = MemoryStore(clock_ms=clock, usage_days=2)
    first = date(2026, 3, 1)
    for i in range(5):
        await store.reserve("acme", "r", [], 60)
        record = UsageRecord(first + timedelta(days=i), "k", "u", "m", 1, 0, 0, 0)
        assert await store.settle("acme", "r", {}, record)
        clock.ms += 86_400_000
    rows = await store.usage("acme", first, first + timedelta(days=9))
    assert [row.day.day for row in rows] == [3, 4, 5]
