"""What a memory store knows after a restart, and after a death, of its process."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from gateway.limits.memory.journal import Journal
from gateway.limits.memory.store import MemoryStore
from gateway.limits.usage import OTHERS, UsageRecord
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Rule,
    Take,
    TokenBucket,
)

DAY = date(2026, 3, 1)
START_MS = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)
RULES: dict[str, Rule] = {
    "month": CalendarWindow(1_000, Period.MONTH),
    "hour": CalendarWindow(1_000, Period.HOUR),
    "minute": CalendarWindow(1_000, Period.MINUTE),
    "daily": TokenBucket.per(Period.DAY, 864, burst=1_000),
    "burst": TokenBucket(10_000, 1, 1_000),
    "fast": TokenBucket(1_000, 1, 1_000),
    "together": Concurrency(1_000),
}
BUCKETS = [Bucket(name, Dimension.TOTAL_TOKENS, rule) for name, rule in RULES.items()]
TAKES = [Take(bucket, 100) for bucket in BUCKETS]


class Clock:
    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


def used(tokens: int, *, user: str = "u", day: date = DAY) -> UsageRecord:
    return UsageRecord(day, "k", user, "m", tokens, 1, 2, 3)


def opened(path: Path, clock: Clock, **options: int) -> MemoryStore:
    return MemoryStore(clock_ms=clock, journal=Journal(path, clock_ms=clock, **options))


async def spend(store: MemoryStore, name: str, tokens: int) -> None:
    await store.reserve("acme", name, TAKES, 60)
    charges = {bucket.key: tokens for bucket in BUCKETS}
    assert await store.settle("acme", name, charges, used(tokens))


async def left(store: MemoryStore) -> dict[str, int]:
    return {s.bucket.key: s.remaining for s in await store.standing("acme", BUCKETS)}


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await true():  # noqa: ASYNC110 - a thread of its own writes
            await asyncio.sleep(0.005)


async def test_what_lasts_is_there_after_a_restart_and_what_was_held_is_not(
    tmp_path: Path,
) -> None:
    clock, path = Clock(), tmp_path / "state" / "penstock.db"
    store = opened(path, clock)
    await spend(store, "one", 30)
    clock.ms += 10
    await spend(store, "two", 40)
    await store.reserve("acme", "in flight", TAKES, 60)
    await store.close()
    clock.ms += 50_000
    store = opened(path, clock)
    assert await left(store) == {
        "month": 930,
        "hour": 930,
        "minute": 1_000,
        "daily": 930,  # the half token that it gained in 50 s is there, too: see below
        "burst": 9_980,
        "fast": 1_000,
        "together": 1_000,
    }
    assert await store.usage("acme", DAY, DAY) == [UsageRecord(DAY, "k", "u", "m", 70, 2, 4, 6, 2)]
    clock.ms += 50_000
    assert (await left(store))["daily"] == 931
    assert not await store.settle("acme", "in flight", {"month": 50})
    await spend(store, "three", 1)
    await store.close()
    clock.ms = START_MS + 3_600_000
    store = opened(path, clock)
    assert await left(store) | {"daily": 0} == {
        "month": 929,
        "hour": 1_000,
        "minute": 1_000,
        "daily": 0,
        "burst": 10_000,
        "fast": 1_000,
        "together": 1_000,
    }
    await store.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_changed_rule_goes_on_with_what_was_used(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"

    def bucket(rule: Rule) -> Bucket:
        return Bucket("b", Dimension.REQUESTS, rule)

    async def charge(rule: Rule, amount: int) -> None:
        store = opened(path, clock)
        await store.reserve("acme", "r", [Take(bucket(rule), 0)], 60)
        await store.settle("acme", "r", {"b": amount})
        await store.close()

    async def remaining(rule: Rule) -> int:
        store = opened(path, clock)
        [standing] = await store.standing("acme", [bucket(rule)])
        await store.close()
        return standing.remaining

    await charge(CalendarWindow(10, Period.DAY), 4)
    await charge(CalendarWindow(20, Period.DAY), 5)
    assert await remaining(CalendarWindow(20, Period.DAY)) == 11
    assert await remaining(CalendarWindow(9, Period.DAY)) == 0
    await charge(TokenBucket.per(Period.DAY, 50), 7)
    assert await remaining(TokenBucket.per(Period.DAY, 50)) == 34
    assert await remaining(CalendarWindow(20, Period.DAY)) == 4
    assert await remaining(CalendarWindow(30, Period.MONTH, "Asia/Tokyo")) == 14
    await charge(CalendarWindow(30, Period.MONTH, "Asia/Tokyo"), 1)
    clock.ms += 86_400_000
    assert await remaining(CalendarWindow(20, Period.DAY)) == 20
    assert await remaining(TokenBucket.per(Period.DAY, 50)) == 50
    assert await remaining(CalendarWindow(30, Period.MONTH, "Asia/Tokyo")) == 13


PLENTY = Bucket("plenty", Dimension.TOTAL_TOKENS, TokenBucket(10**6, 1, 2**31))


async def spend_for_ever(path: Path) -> None:
    """One token a request; says, now and then, how many are surely written."""
    store = MemoryStore(journal=Journal(path))
    for i in itertools.count(1):
        await store.reserve("acme", f"r{i}", [Take(PLENTY, 9)], 60)
        assert await store.settle("acme", f"r{i}", {"plenty": 1}, used(1))
        if i % 10 == 0:
            await asyncio.sleep(0.001)
        if i % 500 == 0:
            await store.usage("acme", DAY, DAY)
            print(i, flush=True)


_SPENDER = """
import asyncio, sys
from pathlib import Path
from tests.gateway.limits.memory.test_journal import spend_for_ever
asyncio.run(spend_for_ever(Path(sys.argv[1])))
"""


def test_killed_it_has_all_but_the_last_moment_and_usage_agrees_with_buckets(
    tmp_path: Path,
) -> None:
    path = tmp_path / "penstock.db"
    spender = subprocess.Popen(
        [sys.executable, "-c", _SPENDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert spender.stdout is not None
    written = [int(spender.stdout.readline()) for _ in range(4)][-1]
    spender.send_signal(signal.SIGKILL)
    spender.wait()
    spender.stdout.close()

    async def look() -> None:
        store = MemoryStore(journal=Journal(path))
        [row] = await store.usage("acme", DAY, DAY)
        [standing] = await store.standing("acme", [PLENTY])
        await store.close()
        assert row.requests == row.input_tokens == 10**6 - standing.remaining
        assert row.requests >= written

    asyncio.run(look())


async def test_a_full_disk_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    journal = Journal(path, clock_ms=clock)
    store = MemoryStore(clock_ms=clock, journal=journal)
    await spend(store, "before", 1)
    await store.usage("acme", DAY, DAY)
    (pages,) = journal._file.database.execute("PRAGMA page_count").fetchone()
    journal._file.database.execute(f"PRAGMA max_page_count = {pages}")
    for i in range(300):  # more than the pages that are there can take
        await store.reserve("acme", f"{i}", [], 60)
        assert await store.settle("acme", f"{i}", {}, used(1, user=f"user {i:050}"))
    assert len(await store.usage("acme", DAY, DAY)) == 301, "what waits is counted"
    assert await store.usage_slots(DAY, DAY) == ["acme"]
    assert journal.counters.failures >= 1
    assert "database or disk is full" in caplog.text
    journal._file.database.execute("PRAGMA max_page_count = 100000")
    assert len(await store.usage("acme", DAY, DAY)) == 301
    assert "can be written again" in caplog.text
    await store.close()
    assert journal.counters.lost == 0
    again = opened(path, clock)
    assert sum(row.requests for row in await again.usage("acme", DAY, DAY)) == 301
    await again.close()


async def test_what_waits_is_bounded(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "penstock.db", max_waiting=20)
    store = MemoryStore(journal=journal)
    journal._file.database.execute("PRAGMA query_only = ON")
    for i in range(25):
        await store.reserve("acme", f"{i}", [], 60)
        assert await store.settle("acme", f"{i}", {}, used(1, user=f"{i}"))
    rows = await store.usage("acme", DAY, DAY)
    assert sorted(int(row.user) for row in rows) == list(range(16, 25)), "the newest"
    assert journal.counters.lost == 16
    await store.close()
    assert journal.counters.lost == 25


async def test_what_waits_for_a_thread_that_hangs_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "penstock.db"
    journal = Journal(path, max_waiting=20)
    store = MemoryStore(journal=journal)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await spend(store, "first", 1)
    reading = asyncio.create_task(store.usage("acme", DAY, DAY))
    await asyncio.sleep(0)
    for i in range(200):
        await spend(store, f"{i}", 1)
    assert journal.counters.lost > 100
    assert len(journal._waiting) <= 21
    other.execute("ROLLBACK")
    other.close()
    assert [row.requests for row in await reading] >= [1]
    await store.close()


async def test_others_may_write_to_the_file(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE keys (id TEXT)")
    store = opened(path, clock)
    journal = store._journal
    assert journal is not None
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO keys VALUES ('k')")
    await spend(store, "r", 5)
    reading = asyncio.create_task(store.usage("acme", DAY, DAY))
    while not journal._thread._work_queue.empty():  # noqa: ASYNC110 - it begins to wait
        await asyncio.sleep(0)
    other.execute("COMMIT")
    assert [row.input_tokens for row in await reading] == [5]
    await store.close()
    assert other.execute("SELECT * FROM keys").fetchall() == [("k",)]
    other.close()


async def test_it_is_written_without_being_asked(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    store = opened(path, clock)
    await spend(store, "r", 5)
    reader = sqlite3.connect(path)

    async def written() -> bool:
        return bool(reader.execute("SELECT * FROM usage_rows").fetchall())

    await until(written)
    reader.close()
    await store.close()


async def test_old_usage_and_fresh_buckets_are_forgotten(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    store = opened(path, clock, usage_days=2)
    for i in range(5):
        today = DAY + timedelta(days=i)
        await store.reserve("acme", "r", TAKES, 60)
        assert await store.settle("acme", "r", {"hour": 5}, used(1, day=today))
        await store.usage("acme", DAY, DAY)
        clock.ms += 86_400_000
    rows = await store.usage("acme", DAY, DAY + timedelta(days=9))
    assert [row.day.day for row in rows] == [3, 4, 5]
    await store.close()
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT COUNT(*) FROM limits_counts").fetchone() == (1,)


async def test_users_of_a_day_are_bounded_over_restarts(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    for i in range(4):
        store = opened(path, clock, max_users_per_day=2)
        await store.reserve("acme", "r", [], 60)
        await store.settle("acme", "r", {}, used(1, user=f"{i}"))
        rows = await store.usage("acme", DAY, DAY)
        await store.close()
    assert [(row.user, row.requests) for row in rows] == [(OTHERS, 2), ("0", 1), ("1", 1)]


async def test_a_bucket_that_cannot_be_read_is_fresh(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    store = opened(path, clock)
    await spend(store, "r", 5)
    await store.close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE limits_counts SET rule = 'x 3' WHERE tally = 'month'")
    store = opened(path, clock)
    assert (await left(store))["month"] == 1_000
    await spend(store, "s", 5)
    await store.close()
    store = opened(path, clock)
    assert (await left(store))["month"] == 995
    await store.close()


async def test_one_record_that_cannot_be_written_takes_no_other_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    store = opened(path, clock)
    for slot, user in (("one", "u"), ("two", "\ud800"), ("three", "u")):
        await store.reserve(slot, "r", TAKES, 60)
        assert await store.settle(slot, "r", {"month": 5}, used(5, user=user))
    for slot in ("one", "three"):
        assert await store.usage(slot, DAY, DAY) == [used(5)]
    assert await store.usage("two", DAY, DAY) == []
    assert store._journal is not None
    assert store._journal.counters.lost == 1
    assert "cannot be written and is lost" in caplog.text
    await store.close()
    store = opened(path, clock)
    for slot in ("one", "two", "three"):
        standings = await store.standing(slot, BUCKETS[:1])
        assert [standing.remaining for standing in standings] == [995]
    await store.close()


async def test_a_flush_writes_one_row_for_many_settlements(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "penstock.db")
    store = MemoryStore(journal=journal)
    for i in range(1_000):
        await store.reserve("acme", f"{i}", [], 60)
        await store.settle("acme", f"{i}", {}, used(2))
    assert len(journal._waiting) == 1
    assert await store.usage("acme", DAY, DAY) == [
        UsageRecord(DAY, "k", "u", "m", 2_000, 1_000, 2_000, 3_000, requests=1_000)
    ]
    await store.close()


async def test_sums_stay_at_the_largest_number(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    for _ in range(2):
        store = opened(path, clock)
        await spend(store, "r", 5)
        await store.close()
        with sqlite3.connect(path) as file:
            file.execute("UPDATE usage_rows SET cost_micros = ?", (2**63 - 2,))
    store = opened(path, clock)
    await spend(store, "r", 5)
    [row] = await store.usage("acme", DAY, DAY)
    assert (row.input_tokens, row.cost_micros) == (15, 2**63 - 1)
    await store.close()


@pytest.mark.parametrize("how", ["deleted", "with its folder", "replaced", "before the end"])
async def test_a_file_that_is_deleted_or_replaced_is_written_anew(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), tmp_path / "state" / "penstock.db"
    store = opened(path, clock)
    await spend(store, "one", 30)
    assert len(await store.usage("acme", DAY, DAY)) == 1  # written
    for file in path.parent.iterdir():
        file.unlink()
    if how == "with its folder":
        path.parent.rmdir()
    elif how == "replaced":
        other = opened(path, clock)
        await spend(other, "theirs", 5)
        await other.reserve("other", "r", [], 60)
        await other.settle("other", "r", {}, used(7))
        await other.close()
    if how != "before the end":
        await spend(store, "two", 40)
        assert [row.requests for row in await store.usage("acme", DAY, DAY)] == [2]
    await store.close()
    assert store._journal is not None
    assert store._journal.counters.replaced == 1
    assert "was deleted or replaced while in use" in caplog.text
    total, requests = (30, 1) if how == "before the end" else (70, 2)
    store = opened(path, clock)
    assert (await left(store))["month"] == 1_000 - total
    rows = await store.usage("acme", DAY, DAY)
    assert [(row.requests, row.input_tokens) for row in rows] == [(requests, total)]
    assert await store.usage_slots(DAY, DAY) == (
        ["acme", "other"] if how == "replaced" else ["acme"]
    )
    await store.close()


async def test_a_file_that_cannot_be_made_again_is_waited_for(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "state" / "penstock.db"
    store = opened(path, clock)
    await spend(store, "one", 30)
    assert len(await store.usage("acme", DAY, DAY)) == 1
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    await spend(store, "two", 40)
    assert [row.requests for row in await store.usage("acme", DAY, DAY)] == [2]
    assert store._journal is not None
    assert store._journal.counters.failures == 1
    path.parent.unlink()
    await store.close()
    store = opened(path, clock)
    assert (await left(store))["month"] == 930
    await store.close()


async def test_what_was_charged_while_the_clock_was_ahead_is_of_now(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    clock.ms = START_MS + 50 * 365 * 86_400_000
    store = opened(path, clock)
    await spend(store, "r", 30)
    await store.close()
    clock.ms = START_MS
    store = opened(path, clock)
    found = await left(store)
    assert (found["month"], found["daily"], found["burst"]) == (970, 970, 9_970)
    await store.close()
    clock.ms += 10_000
    store = opened(path, clock)
    assert (await left(store))["burst"] == 9_980, "it has refilled since the file was opened"
    await store.close()
    clock.ms = START_MS + 31 * 86_400_000
    store = opened(path, clock)
    assert (await left(store))["month"] == 1_000
    await store.close()


async def test_what_is_charged_after_the_clock_was_set_back_is_kept(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "penstock.db"
    store = opened(path, clock)
    clock.ms += 40 * 86_400_000
    await spend(store, "ahead", 30)
    await store.usage("acme", DAY, DAY)
    await spend(store, "ahead, not yet written", 30)
    clock.ms = START_MS
    await spend(store, "now", 40)
    assert (await left(store))["month"] == 900
    await store.close()
    store = opened(path, clock)
    assert (await left(store))["month"] == 900
    await store.close()
