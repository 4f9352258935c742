"""What only the memory store can get wrong: that memory is bounded."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

from gateway.limits.memory.store import MemoryStore
from gateway.limits.usage import UsageRecord
from policies.limits.plan import LimitRule, Subject
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Take,
    TokenBucket,
)
from policies.limits.verdict import Denied, Granted

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


async def test_a_clock_that_is_set_back_by_an_hour_stops_nothing() -> None:
    clock = Clock()
    store = MemoryStore(clock_ms=clock, steady_ms=lambda: 0)
    minute = Bucket("m", Dimension.REQUESTS, TokenBucket(60, 60, 60_000))
    hour = Bucket("h", Dimension.REQUESTS, CalendarWindow(60, Period.HOUR))
    for i in range(60):
        await store.reserve("acme", f"r{i}", [Take(minute, 1), Take(hour, 1)], 60)
        await store.settle("acme", f"r{i}", {"m": 1, "h": 1})
    clock.ms -= 3_600_000
    refused = await store.reserve("acme", "a", [Take(minute, 1)], 60)
    assert isinstance(refused, Denied)
    assert refused.retry_after_ms == 1_000
    refused = await store.reserve("acme", "b", [Take(hour, 1)], 60)
    assert isinstance(refused, Denied), "what was used counts in this hour"
    clock.ms += 1_000
    assert isinstance(await store.reserve("acme", "c", [Take(minute, 1)], 60), Granted)
    clock.ms += 3_600_000
    assert isinstance(await store.reserve("acme", "d", [Take(hour, 60)], 60), Granted)


async def test_leases_do_not_end_when_the_clock_is_set() -> None:
    clock, steady_ms = Clock(), 0
    store = MemoryStore(clock_ms=clock, steady_ms=lambda: steady_ms)
    one = Bucket("one", Dimension.CONCURRENCY, Concurrency(1))
    for step_ms in (61_000, -3_600_000):
        id_ = f"r{step_ms}"
        assert isinstance(await store.reserve("acme", id_, [Take(one, 1)], 60), Granted)
        clock.ms += step_ms
        assert await store.renew("acme", [id_], 60) == 1
        assert isinstance(await store.reserve("acme", "next", [Take(one, 1)], 60), Denied)
        steady_ms += 60_000
        assert [s.remaining for s in await store.standing("acme", [one])] == [1]


async def test_what_was_settled_holds_no_memory() -> None:
    store = MemoryStore()
    bucket = Bucket("fast", Dimension.REQUESTS, TokenBucket(10**9, 1, 1))
    for i in range(100):
        await store.reserve("acme", f"r{i}", [Take(bucket, 1)], 3_600)
        await store.settle("acme", f"r{i}", {"fast": 1})
    assert len(store._due) == 100
    assert not any(entry.holds for _, _, entry in store._due)


async def test_rules_of_two_configurations_by_turns_admit_no_more() -> None:
    """Gateways of which one has been given a new configuration, and the other not yet."""
    clock = Clock()
    store = MemoryStore(clock_ms=clock)
    granted = {"rolling": 0, "calendar": 0}
    rules = {
        "rolling": LimitRule("r", Dimension.REQUESTS, TokenBucket(5, 5, 60_000)),
        "calendar": LimitRule("r", Dimension.REQUESTS, CalendarWindow(5, Period.MINUTE)),
    }
    for i in range(50):
        for kind, rule in rules.items():
            bucket = rule.bucket(Subject("acme"))
            verdict = await store.reserve("acme", f"{kind} {i}", [Take(bucket, 1)], 60)
            granted[kind] += isinstance(verdict, Granted)
            await store.settle("acme", f"{kind} {i}", {bucket.key: 1})
    assert sum(granted.values()) == 5
