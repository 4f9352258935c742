"""What every store does, by example; `test_stateful` has the histories."""

from __future__ import annotations

from datetime import date

import pytest

from gateway.limits.usage import OTHERS, UsageRecord
from policies.limits.types import (
    MAX_AMOUNT,
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Rule,
    Take,
    TokenBucket,
)
from tests.gateway.limits.either import Store

DAY = date(2026, 3, 1)
LATER = date(2026, 3, 3)


def used(user: str, tokens: int, *, day: date = DAY, model: str = "m") -> UsageRecord:
    return UsageRecord(day, "k", user, model, tokens, 0, 0, 0)


async def book(store: Store, slot: str, *records: UsageRecord) -> None:
    for i, record in enumerate(records):
        await store.reserve(slot, f"{record.day} {i}", [], 60)
        assert await store.settle(slot, f"{record.day} {i}", {}, record)


async def test_a_renewed_lease_holds_on(any_store: Store) -> None:
    bucket = Bucket("c", Dimension.CONCURRENCY, Concurrency(2))
    for name, lease_s in (("kept", 60.0), ("left", 0.1)):
        await any_store.reserve("acme", name, [Take(bucket, 1)], lease_s)
    assert await any_store.renew("acme", ["kept", "unknown"], 600) == 1
    while (await any_store.standing("acme", [bucket]))[0].remaining < 1:
        pass  # until the other lease has ended, by the store's own clock
    assert await any_store.renew("acme", ["kept", "left"], 600) == 1
    assert [s.remaining for s in await any_store.standing("acme", [bucket])] == [1]
    assert await any_store.settle("acme", "kept", {"c": 1})
    assert await any_store.renew("acme", ["kept"], 600) == 0
    assert await any_store.renew("nobody", ["kept"], 600) == 0
    assert await any_store.renew("acme", [], 600) == 0


async def test_renewing_does_not_shorten(any_store: Store) -> None:
    bucket = Bucket("c", Dimension.CONCURRENCY, Concurrency(2))
    for name, lease_s in (("long", 600.0), ("short", 0.1)):
        await any_store.reserve("acme", name, [Take(bucket, 1)], lease_s)
    assert await any_store.renew("acme", ["long"], 0.001) == 1
    while (await any_store.standing("acme", [bucket]))[0].remaining < 1:
        pass
    assert await any_store.renew("acme", ["long", "short"], 1) == 1


async def test_many_are_renewed_at_once(any_store: Store) -> None:
    ids = [f"r{i}" for i in range(1_200)]
    for id_ in ids:
        await any_store.reserve("acme", id_, [], 600)
    assert await any_store.renew("acme", ids, 600) == 1_200


@pytest.mark.parametrize("other", [CalendarWindow(10, Period.HOUR), Concurrency(10)])
async def test_what_is_held_of_another_kind_of_rule_does_not_come_back(
    other: Rule, any_store: Store
) -> None:
    def bucket(rule: Rule) -> Bucket:
        return Bucket("b", Dimension.REQUESTS, rule)

    slow = bucket(TokenBucket(10, 1, 2**31))
    await any_store.reserve("acme", "r", [Take(slow, 6)], 600)
    await any_store.standing("acme", [bucket(other)])
    await any_store.reserve("acme", "s", [Take(slow, 7)], 600)
    assert await any_store.settle("acme", "r", {"b": 0})
    assert [s.remaining for s in await any_store.standing("acme", [slow])] == [3]
    assert await any_store.settle("acme", "s", {"b": 5})
    assert [s.remaining for s in await any_store.standing("acme", [slow])] == [5]


async def test_tenants_with_usage_by_day(any_store: Store) -> None:
    await book(any_store, "b", used("u", 1), used("u", 1, day=LATER))
    await book(any_store, "ä {x}", used("u", 1, day=LATER))
    assert await any_store.usage_slots(DAY, LATER) == ["b", "ä {x}"]
    assert await any_store.usage_slots(DAY, date(2026, 3, 2)) == ["b"]
    assert await any_store.usage_slots(date(2026, 3, 4), date(2026, 3, 5)) == []


async def test_users_beyond_the_most_of_a_day_are_summed_up(any_store: Store) -> None:
    """Three are the most here."""
    await book(
        any_store,
        "acme",
        *(used(f"u{i}", 10**i) for i in range(5)),
        used("", 7),
        used("", 7, model="n"),
        used("u1", 10),
        used("u9", 5, model="n"),
        used("u0", 1, day=LATER),
    )
    await book(any_store, "other", used("u4", 1, day=LATER))
    assert await any_store.usage("acme", DAY, LATER) == [
        used("", 7),
        used("", 7, model="n"),
        UsageRecord(DAY, "k", OTHERS, "m", 11_000, 0, 0, 0, requests=2),
        used(OTHERS, 5, model="n"),
        used("u0", 1),
        UsageRecord(DAY, "k", "u1", "m", 20, 0, 0, 0, requests=2),
        used("u2", 100),
        used("u0", 1, day=LATER),
    ]
    assert await any_store.usage("other", LATER, LATER) == [used("u4", 1, day=LATER)]


async def test_absurd_usage_is_bounded(any_store: Store) -> None:
    absurd = UsageRecord(DAY, "k", "u", "m", 10**15, -5, 2**70, 2**63)
    await book(any_store, "acme", absurd, absurd)
    bounded = UsageRecord(
        DAY, "k", "u", "m", 2 * MAX_AMOUNT, 0, 2 * MAX_AMOUNT, 2 * MAX_AMOUNT, requests=2
    )
    assert await any_store.usage("acme", DAY, DAY) == [bounded]
