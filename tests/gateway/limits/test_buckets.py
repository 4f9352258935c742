"""What every store does, by example; `test_stateful` has the histories."""

from __future__ import annotations

import pytest

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
from tests.gateway.limits.either import Store


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


@pytest.mark.parametrize("other", [CalendarWindow(10, Period.MONTH), Concurrency(10)])
async def test_what_is_held_under_another_kind_of_rule_comes_back_to_all(
    other: Rule, any_store: Store
) -> None:
    def bucket(rule: Rule) -> Bucket:
        return Bucket("b", Dimension.REQUESTS, rule)

    used = not isinstance(other, Concurrency)  # requests in flight are something else
    slow = bucket(TokenBucket(10, 1, 2**31))
    await any_store.reserve("acme", "r", [Take(slow, 6)], 600)
    [standing] = await any_store.standing("acme", [bucket(other)])
    assert standing.remaining == (4 if used else 10)
    await any_store.reserve("acme", "s", [Take(bucket(other), 4)], 600)
    assert await any_store.settle("acme", "r", {"b": 1})
    assert [s.remaining for s in await any_store.standing("acme", [slow])] == [5 if used else 9]
    assert await any_store.settle("acme", "s", {"b": 3})
    assert [s.remaining for s in await any_store.standing("acme", [slow])] == [6 if used else 9]
    [standing] = await any_store.standing("acme", [bucket(other)])
    assert standing.remaining == (6 if used else 10)
