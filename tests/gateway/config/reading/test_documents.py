"""Tenants and limits that the admin API is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.reading.documents import key_rules_from, stale, tenant_from
from gateway.config.reading.problems import ConfigError
from gateway.config.schema.tenancy import Tenant
from tests.gateway.config.texts import HASH, POOLS, loaded


def test_a_tenant_as_the_admin_api_has_it(tmp_path: Path) -> None:
    config = loaded(tmp_path, POOLS + "plans: [{name: gold}]")
    document = {
        "name": "acme",
        "plan": "gold",
        "models": ["llama-*"],
        "limits": [{"count": "requests", "limit": 10, "period": "second", "by": ["user"]}],
    }
    tenant = tenant_from(document, config)
    assert (tenant.name, tenant.plan, tenant.models) == ("acme", "gold", ("llama-*",))
    shown = tenant.model_dump(mode="json")
    assert shown["limits"][0]["limit"] == 10
    assert tenant_from({k: v for k, v in shown.items() if k != "keys"}, config) == tenant


@pytest.mark.parametrize(
    ("document", "key", "says"),
    [
        ({}, "name", "the key `name`"),
        ({"name": "A"}, "name", "lower-case"),
        ({"name": 5}, "name", "text"),
        ({"name": "a", "plan": "gld"}, "plan", "did you mean gold?"),
        ({"name": "a", "pln": "gold"}, "pln", "did you mean plan?"),
        (
            {"name": "a", "limits": [{"count": "request", "limit": 1}]},
            "limits[0].count",
            "requests",
        ),
        ({"name": "a", "limits": {}}, "limits", "a list"),
        (
            {"name": "a", "limits": [{"count": "concurrency", "limit": 1, "pools": ["x"]}]},
            "limits[0].pools[0]",
            "one of chat",
        ),
        (
            {"name": "a", "limits": [{"count": "cost", "limit": 1, "period": "day"}]},
            "limits[0].count",
            "prices in pricing.models",
        ),
        (
            {"name": "a", "limits": [{"count": "concurrency", "limit": 1}] * 2},
            "limits[1].name",
            "a name that no other limit here has",
        ),
        ({"name": "a", "keys": [{"id": "k", "sha256": HASH}]}, "keys", "made one by one"),
        ({"name": "a", "weight": 1.5}, "weight", "a whole number"),
        ({"name": "a", "plan": "\x7f\u2028\ufeff\U0001f600"}, "plan", "lower-case"),
        ({"name": "a", "plan": "\ud800"}, "", "JSON"),
        (
            {"name": "a", "limits": [{"count": "concurrency", "limit": float("nan")}]},
            "limits[0].limit",
            "a number",
        ),
    ],
)
def test_what_the_admin_api_refuses(
    tmp_path: Path, document: dict[str, object], key: str, says: str
) -> None:
    config = loaded(tmp_path, POOLS + "plans: [{name: gold}]")
    with pytest.raises(ConfigError) as refused:
        tenant_from(document, config)
    (problem,) = refused.value.problems
    assert problem.key == key
    assert says in str(problem)
    assert problem.line == 0


def test_rules_of_keys_made_at_run_time(tmp_path: Path) -> None:
    config = loaded(tmp_path, POOLS)
    rules = key_rules_from(["llama-*"], [{"count": "concurrency", "limit": 3}], config)
    assert rules.models == ("llama-*",)
    assert rules.limits[0].limit == 3
    with pytest.raises(ConfigError) as refused:
        key_rules_from([""], [{"count": "concurrency", "limit": 3, "pools": ["x"]}], config)
    assert [problem.key for problem in refused.value.problems] == ["models[0]"]


def test_a_tenant_that_the_configuration_left_behind(tmp_path: Path) -> None:
    tenant = Tenant(name="a", plan="gold")
    assert stale(tenant, loaded(tmp_path, "plans: [{name: gold}]")) == []
    (line,) = stale(tenant, loaded(tmp_path, "plans: [{name: free}]"))
    assert line == "plan: expected the name of a plan: one of free"
