"""Limits and usage of tenants, for the supervisor."""

from __future__ import annotations

from datetime import date

import pytest

from gateway.limits.accounts import TenantAccounts, UnknownSubject
from gateway.limits.memory.store import MemoryStore
from gateway.limits.usage import UsageRecord
from policies.limits.plan import By, LimitRule, Subject, TenantPolicy
from policies.limits.types import Concurrency, Dimension, Take

DAY = date(2026, 3, 1)
RULES = (
    LimitRule("together", Dimension.CONCURRENCY, Concurrency(5)),
    LimitRule("by-user", Dimension.CONCURRENCY, Concurrency(2), by=(By.USER,)),
)


def accounts(store: MemoryStore) -> TenantAccounts:
    policies = {("acme", ""): RULES[:1], ("acme", "k"): RULES}
    return TenantAccounts(
        store,
        store,
        lambda tenant, key: (
            TenantPolicy(tenant, policies[tenant, key]) if (tenant, key) in policies else None
        ),
    )


async def test_standings_are_of_the_limits_that_apply() -> None:
    store = MemoryStore()
    subject = Subject("acme", user="ann")
    taken = Take(RULES[0].bucket(subject), 3)
    await store.reserve("acme", "r", [taken], 60)
    source = accounts(store)
    assert [one.remaining for one in await source.standings(subject)] == [2]
    assert [one.remaining for one in await source.standings(subject, "k")] == [2, 2]
    assert [one.remaining for one in await source.standings(Subject("acme"), "k")] == [2]
    with pytest.raises(UnknownSubject, match="nobody"):
        await source.standings(Subject("nobody"))


async def test_usage_is_of_one_tenant_or_of_all() -> None:
    store = MemoryStore()
    row = UsageRecord(DAY, "k", "u", "m", 1, 0, 0, 0)
    for tenant in ("acme", "other"):
        await store.reserve(tenant, "r", [], 60)
        await store.settle(tenant, "r", {}, row)
    source = accounts(store)
    assert [one async for one in source.usage("other", DAY, DAY)] == [("other", [row])]
    every = [one async for one in source.usage(None, DAY, DAY)]
    assert every == [("acme", [row]), ("other", [row])]
