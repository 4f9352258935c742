"""Limits change while time passes: all stores count as the pure tally does."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from gateway.limits.memory.journal import Journal
from gateway.limits.memory.store import MemoryStore
from gateway.limits.outage.fallback import FallbackStore
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from policies.limits.plan import OnStoreFailure
from policies.limits.tally import MAX_COUNTS
from policies.limits.types import (
    MAX_LIMIT,
    MAX_PERIOD_MS,
    Bucket,
    CalendarWindow,
    Dimension,
    Lifetime,
    Period,
    Rule,
    Take,
    TokenBucket,
)
from policies.limits.verdict import Granted
from tests.gateway.limits.outage.parts import fallback
from tests.gateway.limits.redis import script_clock
from tests.policies.limits.rules import LIFETIMES, TOKEN_BUCKETS, WINDOWS
from tests.redis_server import RedisServer

START_MS = 1_795_000_000_123
MONTHS_END_MS = 1_796_083_200_000 - 18 * 3_600_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
HUNDRED = TokenBucket(100, 100, HOUR_MS)
BURST = TokenBucket(50, 7, MINUTE_MS)
LASTING: list[Rule] = [
    HUNDRED,
    TokenBucket(20, 100, HOUR_MS),
    TokenBucket(10, 10, HOUR_MS),
    TokenBucket(61, 7, 7 * HOUR_MS + 1),
    TokenBucket(300, 299, 24 * HOUR_MS - 1),
]
RULES: list[Rule] = [
    *LASTING,
    BURST,
    TokenBucket(5, 5, 1_000),
    TokenBucket(7, 11, 1_013),
    TokenBucket(MAX_LIMIT, MAX_LIMIT - 27, MAX_PERIOD_MS),
    CalendarWindow(100, Period.MONTH),
    CalendarWindow(40, Period.DAY, "America/New_York"),
    CalendarWindow(200, Period.MONTH, "Europe/Berlin"),
    CalendarWindow(10, Period.HOUR),
    Lifetime(50, HOUR_MS),
    Lifetime(9, 5_000),
]
STEPS_MS = st.sampled_from([0, 0, 1, 700, 61_000, 20 * MINUTE_MS, 90 * MINUTE_MS])
NAMES = itertools.count()
SETTINGS = settings(
    deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)

Anything = MemoryStore | RedisStore | FallbackStore
Step = tuple[int, Rule, int]
"""How long after the one before, ms; the rule in force; the amount that is asked for."""
T = TypeVar("T")


def bucket(rule: Rule) -> Bucket:
    return Bucket("b", Dimension.TOTAL_TOKENS, rule)


async def use(store: Anything, rule: Rule, amount: int) -> tuple[bool, int]:
    """A request that is charged what it reserved; whether it was granted, and what is left."""
    name = f"r{next(NAMES)}"
    verdict = await store.reserve("a", name, [Take(bucket(rule), amount)], 60)
    granted = isinstance(verdict, Granted)
    if granted:
        await store.settle("a", name, {"b": amount})
    [standing] = await store.standing("a", [bucket(rule)])
    return granted, standing.remaining


@dataclass
class Stores:
    """A store of each kind, on one clock."""

    server: RedisServer
    folder: Path
    now_ms: int = START_MS
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def run(self, call: Coroutine[object, object, T]) -> T:
        return self.runner.run(call)

    def memory(self) -> MemoryStore:
        return MemoryStore(clock_ms=lambda: self.now_ms)

    def journal(self, path: Path) -> MemoryStore:
        """A gateway that starts."""

        async def start() -> MemoryStore:
            journal = Journal(path, clock_ms=lambda: self.now_ms)
            return MemoryStore(clock_ms=lambda: self.now_ms, journal=journal)

        return self.run(start())

    def outage(self) -> FallbackStore:
        async def start() -> FallbackStore:
            nowhere = RedisStore(connect(f"unix://{self.folder}/none", timeout_s=10), timeout_s=10)
            clock_ms = lambda: self.now_ms  # noqa: E731
            return fallback(nowhere, OnStoreFailure.SHARE, close_s=0, clock_ms=clock_ms)

        return self.run(start())

    def redis(self) -> RedisStore:
        async def start() -> RedisStore:
            client = connect(self.server.url, timeout_s=10)
            return RedisStore(client, timeout_s=10, clock_ms=lambda: self.now_ms)

        self.server.ask("FLUSHALL")
        return self.run(start())

    def go_on(self, ms: int) -> None:
        self.now_ms += ms
        for key, value in script_clock.keys_at(self.now_ms).items():
            self.server.ask("SET", key, value)


@pytest.fixture
def stores(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Stores]:
    script_clock.install(redis_server, monkeypatch)
    made = Stores(redis_server, tmp_path)
    yield made
    made.runner.close()


@pytest.mark.parametrize("kind", ["memory", "journal", "outage", "redis"])
def test_a_new_rule_counts_from_the_last_charge_what_had_been_used_then(
    kind: str, stores: Stores
) -> None:
    def opened() -> Anything:
        make: dict[str, Callable[[], Anything]] = {
            "memory": stores.memory,
            "journal": lambda: stores.journal(stores.folder / "penstock.db"),
            "outage": stores.outage,
            "redis": stores.redis,
        }
        return make[kind]()

    slow, fast = TokenBucket(100, 100, 24 * HOUR_MS), TokenBucket(1_000, 1_000, HOUR_MS)
    store = opened()
    stores.go_on(0)
    assert stores.run(use(store, HUNDRED, 80)) == (True, 20)
    if kind == "journal":
        stores.run(store.close())
    stores.go_on(30 * MINUTE_MS)
    if kind == "journal":
        store = opened()
    assert stores.run(use(store, slow, 23)) == (False, 22), "2 of 80 are back"
    assert stores.run(use(store, fast, 1_001)) == (False, 1_000), "all are back long since"
    assert stores.run(use(store, HUNDRED, 71)) == (False, 70)
    assert stores.run(use(store, slow, 22)) == (True, 0)
    assert stores.run(use(store, HUNDRED, 49)) == (False, 48)
    stores.run(store.close())


def histories(rules: st.SearchStrategy[Rule]) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.tuples(STEPS_MS, rules, st.integers(1, 60)), max_size=30)


def test_redis_counts_as_the_pure_tally(stores: Stores) -> None:
    """The memory store's counts are the pure ones."""

    @settings(SETTINGS, max_examples=40)
    @example([(0, BURST, 8), (61_000, HUNDRED, 40), (0, HUNDRED, 60)], START_MS)
    @given(
        histories(st.sampled_from(RULES) | TOKEN_BUCKETS | LIFETIMES | WINDOWS),
        st.sampled_from([START_MS, MONTHS_END_MS]),
    )
    def check(history: list[Step], start_ms: int) -> None:
        stores.now_ms = start_ms
        pure, lua = stores.memory(), stores.redis()
        try:
            for step_ms, rule, amount in history:
                stores.go_on(step_ms)
                expected = stores.run(use(pure, rule, amount))
                assert stores.run(use(lua, rule, amount)) == expected
        finally:
            stores.run(lua.close())

    check()


def test_a_window_of_a_time_zone_goes_on_while_another_rule_is_in_force(stores: Stores) -> None:
    """Redis knows no time zones: those who ask for a window say when it starts."""
    pure, lua = stores.memory(), stores.redis()
    stores.go_on(0)
    rules: list[Rule] = [
        CalendarWindow(10**6, period, zone)
        for zone in ("America/New_York", "Asia/Kathmandu")
        for period in (Period.DAY, Period.WEEK, Period.MONTH)
    ]
    for index in range(20):
        for rule in rules if index % 4 == 0 else [TokenBucket(10**6, 10**6, HOUR_MS)]:
            expected = stores.run(use(pure, rule, 900))
            assert stores.run(use(lua, rule, 900)) == expected
        stores.go_on(20 * HOUR_MS)
    stores.run(lua.close())


def test_a_restart_at_any_time_changes_no_count(stores: Stores) -> None:
    """With rules that the journal keeps."""

    @settings(SETTINGS, max_examples=15)
    @example(
        [(0, LASTING[2], 1), (90 * MINUTE_MS, LASTING[3], 20), (0, LASTING[2], 1)],
        {2},
    )
    @given(histories(st.sampled_from(LASTING)), st.sets(st.integers(0, 30)))
    def check(history: list[Step], restarts: set[int]) -> None:
        stores.now_ms = START_MS
        with tempfile.TemporaryDirectory(prefix="pk") as folder:
            path = Path(folder) / "penstock.db"
            whole, kept = stores.memory(), stores.journal(path)
            for index, (step_ms, rule, amount) in enumerate(history):
                stores.now_ms += step_ms
                if index in restarts:
                    stores.run(kept.close())
                    kept = stores.journal(path)
                expected = stores.run(use(whole, rule, amount))
                assert stores.run(use(kept, rule, amount)) == expected
            stores.run(kept.close())

    check()


def test_what_is_in_flight_when_a_limit_changes_is_charged_to_the_journal_once(
    stores: Stores,
) -> None:
    async def before() -> None:
        assert await use(store, HUNDRED, 10) == (True, 90)
        await store.reserve("a", "long", [Take(bucket(HUNDRED), 40)], 600)
        assert [one.remaining for one in await store.standing("a", [bucket(LASTING[3])])] == [11]
        await store.settle("a", "long", {"b": 30})
        await store.close()

    path = stores.folder / "penstock.db"
    store = stores.journal(path)
    stores.run(before())
    store = stores.journal(path)
    assert stores.run(use(store, LASTING[3], 1)) == (True, 20)
    stores.run(store.close())


def test_a_bucket_of_long_ago_does_not_date_what_a_window_counts(stores: Stores) -> None:
    path, month = stores.folder / "penstock.db", CalendarWindow(1_000, Period.MONTH)
    store = stores.journal(path)
    assert stores.run(use(store, HUNDRED, 10)) == (True, 90)
    for _ in range(3):
        stores.now_ms += 26 * HOUR_MS
        assert stores.run(use(store, month, 60))[0]
    stores.run(store.close())
    store = stores.journal(path)
    assert stores.run(use(store, TokenBucket(200, 200, HOUR_MS), 20)) == (True, 0)
    stores.run(store.close())


def test_a_count_that_was_dropped_begins_anew_in_the_journal(stores: Stores) -> None:
    async def change() -> None:
        most = TokenBucket(1_000, 1, 24 * HOUR_MS)
        assert await use(store, most, 1) == (True, 999)
        assert await use(store, HUNDRED, 90) == (True, 9)
        for number in range(2 * MAX_COUNTS):
            stores.now_ms += 1
            await use(store, TokenBucket(200 + number, 1, 24 * HOUR_MS), 1)
        assert await use(store, most, 1) == (True, 892)
        assert await use(store, HUNDRED, 1) == (False, 0)
        stores.now_ms += HOUR_MS // 2
        assert await use(store, HUNDRED, 1) == (True, 49)
        await store.close()

    path = stores.folder / "penstock.db"
    store = stores.journal(path)
    stores.run(change())
    store = stores.journal(path)
    assert stores.run(use(store, HUNDRED, 1)) == (True, 48)
    stores.run(store.close())
