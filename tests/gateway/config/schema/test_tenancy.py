"""Plans, tenants and keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.schema.tenancy import TenantKey
from tests.gateway.config.texts import HASH, KEY, assert_refused


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (
            "plans: [{name: g, limits: [&l {count: concurrency, limit: 1}, *l]}]",
            "plans[0].limits[1].name",
            "limits[0] has it already; give one of them a name",
        ),
        ("plans: [{name: g, priority: 1.5}]", "plans[0].priority", "a whole number"),
        ("plans: [{name: g, on_store_failure: opne}]", "plans[0].on_store_failure", "mean open?"),
        ("plans: [{name: g, models: [' x']}]", "plans[0].models[0]", "without white space"),
        (
            KEY.format(HASH + ", expires: 2027-01-31"),
            "tenants[0].keys[0].expires",
            "with its zone, such as 2027-01-31T00:00:00Z",
        ),
        (
            KEY.format(HASH + ", expires: 2027-01-31T00:00:00"),
            "tenants[0].keys[0].expires",
            "Z at the end is UTC",
        ),
        (KEY.format(HASH + ", expires: 5"), "tenants[0].keys[0].expires", "a date and time"),
        (
            KEY.format(HASH + ", limits: [{count: concurrency, limit: 0}]"),
            "tenants[0].keys[0].limits[0].limit",
            "above 0",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)


def test_a_hash_is_told_in_either_case() -> None:
    assert TenantKey(id="k", sha256=HASH.upper()).digest == bytes.fromhex(HASH)
