"""``penstock limits``."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from policies.limits.plan import Subject
from policies.limits.prices import Usage
from tests.gateway.admin.place import place
from tests.gateway.admin.test_accounts import UNKNOWN
from tests.gateway.commands.terminal import Terminal, cells


@pytest.fixture
async def unknown() -> AsyncIterator[Terminal]:
    """Where tenants need not be configured."""
    async with place(UNKNOWN) as (made, url):
        yield Terminal(made, url)


async def test_what_is_left(penstock: Terminal) -> None:
    bob = Subject("fixed", "ci", "bob", "llama", "main")
    await penstock.place.use(bob, Usage(15_000, 1_000), key_id="ci")
    shown = await penstock("limits", "--key", "ci", "--user", "bob")
    assert [cells(line) for line in shown.out.splitlines()] == [
        ["tenant", "limit", "of", "allowed", "used", "left", "resets in", "mode"],
        ["fixed", "requests-per-minute", "60 per minute", "1", "59", "1.0 s", "enforced"],
        [
            *("fixed", "total_tokens-per-minute-by-user", "user bob"),
            *("10,000 per minute, 20,000 at once", "16,000", "4,000", "1 min 36 s", "enforced"),
        ],
        [
            *("fixed", "cost-per-month", "12.50 USD per month (calendar)"),
            *("0.017 USD", "12.483 USD", "16 d 12 h", "enforced"),
        ],
        ["fixed", "concurrency-by-key", "key ci", "4 at once", "0", "4", "enforced"],
    ]
    await penstock("tenants", "create", "acme", "--limit", "requests=5/day,shadow")
    everybody = await penstock("limits")
    assert [cells(line)[:2] for line in everybody.out.splitlines()[1:]] == [
        ["acme", "requests-per-day"],
        ["fixed", "requests-per-minute"],
        ["fixed", "cost-per-month"],
    ]
    assert "shadow" in everybody.out.splitlines()[1]
    as_json = await penstock("limits", "--tenant", "acme", "--json")
    assert as_json.json["limits"][0]["remaining"] == 5
    assert await penstock.refused("limits", "--tenant", "nobody")


async def test_a_tenant_that_is_not_configured(unknown: Terminal) -> None:
    shown = await unknown("limits", "--tenant", "nope")
    first, _, row = shown.out.splitlines()
    assert first == (
        "The tenant 'nope' is not configured; the plan free of unknown_tenants would apply."
    )
    assert cells(row)[:2] == ["nope", "requests-per-day"]
