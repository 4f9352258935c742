"""Any history of calls: every store does what the plain model does."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gateway.limits.memory.journal import Journal
from gateway.limits.memory.store import MemoryStore
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from gateway.limits.usage import UsageRecord
from policies.limits.types import (
    MAX_AMOUNT,
    MAX_LIMIT,
    MAX_PERIOD_MS,
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Lifetime,
    Period,
    Take,
    TokenBucket,
)
from policies.limits.verdict import Denied, Granted, Refusal
from tests.gateway.limits.either import Store
from tests.gateway.limits.model import Model
from tests.gateway.limits.redis import script_clock
from tests.redis_server import RedisServer

START_MS = int(datetime(2028, 2, 28, 23, 59, 57, 123_000, UTC).timestamp() * 1000)
LATE_S = 30.0
DAY = date(2028, 2, 29)
HOUR_MS = 3_600_000
DAYS_MS = 40 * 86_400_000
T = TypeVar("T")


def bucket(key: str, *rules: Any, shadow: bool = False) -> list[Bucket]:
    return [Bucket(key, Dimension.TOTAL_TOKENS, rule, key, shadow) for rule in rules]


# Each bucket with the rules that it may be given in the course of time.
BUCKETS = [
    bucket("odd", TokenBucket(10, 7, 3_000), TokenBucket(14, 7, 3_000), TokenBucket(6, 11, 1_013)),
    bucket("huge", TokenBucket(MAX_LIMIT, MAX_LIMIT - 27, MAX_PERIOD_MS)),
    bucket("slow", TokenBucket(5, 1, MAX_PERIOD_MS - 4)),
    bucket("second", CalendarWindow(12, Period.SECOND)),
    bucket("month", CalendarWindow(20, Period.MONTH), CalendarWindow(9, Period.MONTH)),
    bucket("together", Concurrency(3), Concurrency(2)),
    bucket("shadow", TokenBucket(5, 1, 1_000), shadow=True),
    bucket(
        "turncoat",
        TokenBucket(10, 1, 1_000),
        CalendarWindow(8, Period.HOUR),
        Concurrency(6),
        CalendarWindow(9, Period.SECOND),
        Lifetime(9, 5_000),
        TokenBucket(7, 3, 1_000),
        CalendarWindow(8, Period.DAY, "Europe/Berlin"),
        CalendarWindow(20, Period.WEEK),
        CalendarWindow(5, Period.HOUR),
    ),
    bucket("slow|both", TokenBucket(10, 1, 10_000), TokenBucket(4, 1, 10_000)),
    bucket("fast|both", CalendarWindow(5, Period.SECOND), Lifetime(12, 90_000)),
    bucket("zone", CalendarWindow(15, Period.DAY, "Asia/Kolkata"), CalendarWindow(12, Period.DAY)),
    bucket("session", Lifetime(10, 3_000), Lifetime(13, 3_000), Lifetime(13, 60_000)),
]
CHANGING = [index for index, rules in enumerate(BUCKETS) if len(rules) > 1]
AMOUNTS = st.integers(0, 13) | st.sampled_from([MAX_AMOUNT, MAX_AMOUNT - 1])
TAKES = st.lists(
    st.tuples(st.sampled_from(range(len(BUCKETS))), st.integers(0, 12)),
    unique_by=lambda take: take[0],
    max_size=4,
)
LEASES_MS = st.sampled_from([1, 700, 5_000, 60_000])


class StoreMachine(RuleBasedStateMachine):
    """``clock_ms`` and ``make`` come from the test."""

    server: RedisServer | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now_ms = self.steady_ms = START_MS
        self.model = Model(START_MS, round(LATE_S * 1000), START_MS)
        self.variant = [0] * len(BUCKETS)
        self.ids: list[str] = []
        self.used: dict[str, int] = {}
        self.store: Store = self.run(self.make())

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    async def make(self) -> Store:
        if self.server is None:
            return MemoryStore(
                clock_ms=lambda: self.now_ms, steady_ms=lambda: self.steady_ms, late_s=LATE_S
            )
        self.server.ask("FLUSHALL")
        self.client = connect(self.server.url, timeout_s=10)
        await self.set_clock()
        return RedisStore(self.client, timeout_s=10, late_s=LATE_S, clock_ms=lambda: self.now_ms)

    async def set_clock(self) -> None:
        if self.server is not None:
            await self.client.mset(script_clock.keys_at(self.now_ms))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()

    def buckets(self) -> list[Bucket]:
        return [rules[i] for rules, i in zip(BUCKETS, self.variant, strict=True)]

    @initialize()
    def everything_is_fresh(self) -> None:
        self.look()

    @rule(ms=st.integers(1, 3_000) | st.sampled_from([10_000, 90_000, HOUR_MS, DAYS_MS]))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms
        self.steady_ms += ms
        self.run(self.set_clock())
        self.model.pass_time(ms)

    @rule(ms=st.integers(-3_000, 3_000) | st.sampled_from([-1_000, -1_001, -HOUR_MS, -DAYS_MS]))
    def the_clock_is_set(self, ms: int) -> None:
        """Every bucket has just been looked at, and written, and is again."""
        touched = [Take(bucket, 0) for bucket in self.buckets()]
        if any(self.model.has(take.bucket) < 0 for take in touched if take.bucket.shadow):
            return  # it cannot be touched
        id_ = f"t{len(self.ids)}"
        self.ids.append(id_)
        self.model.reserve(id_, touched, DAYS_MS, forced=True)
        assert self.run(self.store.adopt("acme", id_, touched, DAYS_MS / 1_000))
        self.now_ms += ms
        self.run(self.set_clock())
        self.model.set_clock(ms, with_leases=self.server is not None)
        assert self.run(self.store.settle("acme", id_, {})) == self.model.settle(id_, {})
        self.look()

    @rule(which=st.sampled_from(CHANGING), variant=st.integers(0, 8))
    def a_rule_is_changed(self, which: int, variant: int) -> None:
        self.variant[which] = variant % len(BUCKETS[which])
        self.look()

    @rule()
    def look(self) -> None:
        standings = self.run(self.store.standing("acme", self.buckets()))
        assert [s.remaining for s in standings] == [
            max(0, one.has()) for one in self.model.look(self.buckets())
        ]

    def takes(self, chosen: list[tuple[int, int]]) -> list[Take]:
        return [Take(self.buckets()[i], amount) for i, amount in chosen]

    @rule(chosen=TAKES, lease_ms=LEASES_MS)
    def reserve(self, chosen: list[tuple[int, int]], lease_ms: int) -> None:
        id_, takes = f"r{len(self.ids)}", self.takes(chosen)
        self.ids.append(id_)
        expected = self.model.reserve(id_, takes, lease_ms)
        verdict = self.run(self.store.reserve("acme", id_, takes, lease_ms / 1000))
        assert isinstance(verdict, Granted) == expected.granted
        assert list(verdict.shadow_refusals) == expected.shadow
        assert [s.remaining for s in verdict.standings] == expected.remaining
        if isinstance(verdict, Denied):
            assert verdict.bucket in expected.lacking
            assert (verdict.retry_after_ms is None) == (verdict.refusal is not Refusal.EMPTY)

    @rule(chosen=TAKES, lease_ms=LEASES_MS)
    def adopt(self, chosen: list[tuple[int, int]], lease_ms: int) -> None:
        id_, takes = f"a{len(self.ids)}", self.takes(chosen)
        self.ids.append(id_)
        self.model.reserve(id_, takes, lease_ms, forced=True)
        assert self.run(self.store.adopt("acme", id_, takes, lease_ms / 1000))
        assert not self.run(self.store.adopt("acme", id_, takes, lease_ms / 1000))

    @rule(data=st.data(), lease_ms=LEASES_MS)
    def renew(self, data: st.DataObject, lease_ms: int) -> None:
        known = st.sampled_from([*self.ids[-8:], "unknown"])
        ids = data.draw(st.lists(known, unique=True, max_size=4))
        held = self.run(self.store.renew("acme", ids, lease_ms / 1000))
        assert held == self.model.renew(ids, lease_ms)
        self.look()

    @rule(data=st.data(), charges=st.lists(AMOUNTS, min_size=len(BUCKETS), max_size=len(BUCKETS)))
    def settle(self, data: st.DataObject, charges: list[int]) -> None:
        id_ = data.draw(st.sampled_from([*self.ids[-8:], "unknown"]))
        charged = {b.key: charge for b, charge in zip(self.buckets(), charges, strict=True)}
        usage = UsageRecord(DAY, "key", 'us"er', "model", charges[0], 0, charges[1], 1)
        done = self.run(self.store.settle("acme", id_, charged, usage))
        assert done == self.model.settle(id_, charged)
        if done:
            self.used["requests"] = self.used.get("requests", 0) + 1
            self.used["tokens"] = self.used.get("tokens", 0) + charges[0] + charges[1]

    @rule()
    def usage_is_counted_once(self) -> None:
        rows = self.run(self.store.usage("acme", DAY, DAY))
        assert sum(row.requests for row in rows) == self.used.get("requests", 0)
        assert sum(r.input_tokens + r.output_tokens for r in rows) == self.used.get("tokens", 0)
        slots = self.run(self.store.usage_slots(DAY, DAY))
        assert slots == ["acme"] or (slots == [] and not self.used)


SETTINGS = settings(
    phases=[__import__("hypothesis").Phase.generate],
    deadline=None,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)


def test_memory_store_does_what_the_model_does() -> None:
    run_state_machine_as_test(StoreMachine, settings=settings(SETTINGS, max_examples=120))


def test_memory_store_with_a_journal_does_what_the_model_does() -> None:
    class JournalMachine(StoreMachine):
        async def make(self) -> Store:
            self.folder = tempfile.TemporaryDirectory(prefix="pk")
            path = Path(self.folder.name) / "penstock.db"
            self.journal = Journal(path, clock_ms=lambda: self.now_ms)
            return MemoryStore(
                clock_ms=lambda: self.now_ms,
                steady_ms=lambda: self.steady_ms,
                late_s=LATE_S,
                journal=self.journal,
            )

        def teardown(self) -> None:
            super().teardown()
            self.folder.cleanup()
            assert (self.journal.counters.failures, self.journal.counters.lost) == (0, 0)

    run_state_machine_as_test(JournalMachine, settings=settings(SETTINGS, max_examples=40))


def test_redis_store_does_what_the_model_does(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_clock.install(redis_server, monkeypatch)

    class RedisMachine(StoreMachine):
        server = redis_server

    run_state_machine_as_test(RedisMachine, settings=settings(SETTINGS, max_examples=60))
