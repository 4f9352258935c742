"""Usage in every store, by example."""

from __future__ import annotations

from datetime import date

from gateway.limits.usage import OTHERS, UsageRecord
from policies.limits.types import MAX_AMOUNT
from tests.gateway.limits.either import Store

DAY = date(2026, 3, 1)
LATER = date(2026, 3, 3)


def used(user: str, tokens: int, *, day: date = DAY, model: str = "m") -> UsageRecord:
    return UsageRecord(day, "k", user, model, tokens, 0, 0, 0)


async def book(store: Store, slot: str, *records: UsageRecord) -> None:
    for i, record in enumerate(records):
        await store.reserve(slot, f"{record.day} {i}", [], 60)
        assert await store.settle(slot, f"{record.day} {i}", {}, record)


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
