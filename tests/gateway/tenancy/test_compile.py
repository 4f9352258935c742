"""From plans, tenants, keys and prices in the file to the policies that pickers decide by."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.config import Config
from gateway.config.reading.load import load
from gateway.config.schema.limit import Limit
from gateway.config.schema.tenancy import Tenant
from gateway.tenancy.compile import Policies
from policies.limits.plan import OnStoreFailure, Subject, TenantPolicy, charges, takes
from policies.limits.prices import Usage
from policies.limits.types import (
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    TokenBucket,
    check_takes,
)

EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "tenants.yaml"
USAGE = Usage(1_000, 100, cached_tokens=400, reasoning_tokens=60)


def config(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    return load(path, environment={})


def policy(tmp_path: Path, text: str) -> TenantPolicy:
    found = config(tmp_path, text)
    return Policies(found).of(found.tenants[0])


def limit(text: str) -> Limit:
    return Limit.model_validate_json(text)


def names(found: TenantPolicy) -> list[str]:
    return [rule.name for rule in found.rules]


def test_a_tenant_has_what_its_plan_has(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
plans:
  - {name: gold, priority: 10, weight: 4, models: ["llama-*"], on_store_failure: share,
     limits: [{count: requests, limit: 5, period: second}]}
tenants: [{name: acme, plan: gold}]
""",
    )
    assert (found.tenant, found.plan) == ("acme", "gold")
    assert (found.priority, found.weight, found.models) == (10, 4, ("llama-*",))
    assert found.on_store_failure is OnStoreFailure.SHARE
    assert names(found) == ["requests-per-second"]
    assert not found.disabled


def test_a_tenants_own_settings_come_before_its_plans(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
plans: [{name: gold, priority: 10, weight: 4, models: [a], on_store_failure: closed}]
tenants: [{name: acme, plan: gold, priority: 0, weight: 1, models: [], disabled: true,
           on_store_failure: open}]
""",
    )
    assert (found.priority, found.weight, found.models) == (0, 1, ())
    assert found.on_store_failure is OnStoreFailure.OPEN
    assert found.disabled


def test_without_a_plan_there_are_only_its_own_limits(tmp_path: Path) -> None:
    found = policy(tmp_path, "tenants: [{name: a}]")
    assert found == TenantPolicy("a", prices=found.prices)


def test_a_limit_of_the_same_name_replaces_the_plans(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
plans:
  - name: gold
    limits:
      - {count: requests, limit: 5, period: second}
      - {name: tokens, count: total_tokens, limit: 5, period: minute}
      - {count: concurrency, limit: 5}
tenants:
  - name: acme
    plan: gold
    limits:
      - {count: requests, limit: 7, period: second}
      - {name: tokens, count: input_tokens, limit: 8, period: hour}
      - {count: concurrency, limit: 9, by: [user]}
""",
    )
    assert {rule.name: rule.rule for rule in found.rules} == {
        "requests-per-second": TokenBucket.per(Period.SECOND, 7),
        "tokens": TokenBucket.per(Period.HOUR, 8),
        "concurrency": Concurrency(5),
        "concurrency-by-user": Concurrency(9),
    }


@pytest.mark.parametrize(
    ("text", "dimension", "rule"),
    [
        (
            "{count: requests, limit: 5, period: second, burst: 50}",
            Dimension.REQUESTS,
            TokenBucket(50, 5, 1_000),
        ),
        (
            "{count: total_tokens, limit: 5, period: month}",
            Dimension.TOTAL_TOKENS,
            TokenBucket(5, 5, 30 * 86_400_000),
        ),
        (
            "{count: output_tokens, limit: 5, period: day, window: calendar}",
            Dimension.OUTPUT_TOKENS,
            CalendarWindow(5, Period.DAY),
        ),
        (
            "{count: cost, limit: 0.15, period: month, window: calendar}",
            Dimension.MONEY,
            CalendarWindow(150_000, Period.MONTH),
        ),
        (
            "{count: cost, limit: 0.15, period: day}",
            Dimension.MONEY,
            CalendarWindow(150_000, Period.DAY),
        ),
        (
            "{count: cost, limit: 3, period: month, window: rolling}",
            Dimension.MONEY,
            TokenBucket.per(Period.MONTH, 3_000_000),
        ),
        (
            "{count: cost, limit: 0.000001, period: hour, burst: 2.5}",
            Dimension.MONEY,
            TokenBucket(2_500_000, 1, 3_600_000),
        ),
        ("{count: concurrency, limit: 5}", Dimension.CONCURRENCY, Concurrency(5)),
    ],
)
def test_limits_become_rules(tmp_path: Path, text: str, dimension: Dimension, rule: object) -> None:
    prices = "pricing: {models: [{model: '*', input: 1, output: 1}]}\n"
    found = policy(tmp_path, prices + f"tenants: [{{name: a, limits: [{text}]}}]")
    assert [(r.dimension, r.rule) for r in found.rules] == [(dimension, rule)]


def test_what_a_request_costs(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
pricing:
  weights: {input: 1, cached_input: 0.1, output: 4, reasoning: 0}
  models:
    - {model: a, input: 0.15, cached_input: 0.015, output: 0.6}
    - {model: b, cel: "double(total_tokens) * 0.000002"}
tenants:
  - name: acme
    limits:
      - {count: cost, limit: 1, period: hour}
      - {count: weighted_tokens, limit: 1000, period: day}
      - {name: own, count: weighted_tokens, limit: 1000, period: day, weights: {input: 2}}
      - {name: cel, count: weighted_tokens, limit: 1000, period: day, weights: {cel: "7"}}
""",
    )
    assert charges(found.meters(Subject("acme", model="a")), USAGE) == {
        "cost-per-hour|cost": 156,  # 600 * 0.15 + 400 * 0.015 + 100 * 0.6
        "weighted_tokens-per-day|weighted_tokens": 600 + 40 + 4 * 40,
        "own|weighted_tokens:own": 2_000 + 100,
        "cel|weighted_tokens:cel": 7,
    }
    assert charges(found.meters(Subject("acme", model="b")), USAGE)["cost-per-hour|cost"] == 2_200
    assert charges(found.meters(Subject("acme", model="c")), USAGE)["cost-per-hour|cost"] == 0


def test_weighted_tokens_without_weights_are_total_tokens(tmp_path: Path) -> None:
    found = policy(
        tmp_path, "tenants: [{name: a, limits: [{count: weighted_tokens, limit: 9, period: day}]}]"
    )
    assert list(charges(found.meters(Subject("a", model="m")), USAGE).values()) == [1_100]


def test_a_keys_limits_count_by_key_beside_the_tenants(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        """
tenants:
  - name: acme
    limits:
      - {count: requests, limit: 100, period: minute}
      - {count: requests, limit: 10, period: minute, by: [key]}
      - {name: tokens, count: total_tokens, limit: 10, period: minute}
""",
    )
    policies = Policies(found)
    tenant = policies.of(found.tenants[0])
    assert policies.for_key(tenant, ()) is tenant
    own = [
        limit('{"count": "requests", "limit": 50, "period": "minute"}'),
        limit('{"name": "tokens", "count": "total_tokens", "limit": 5, "period": "minute"}'),
    ]
    key = policies.for_key(tenant, own)
    subject = Subject("acme", key="ci", model="m")
    meters = key.meters(subject)
    check_takes(takes(meters, USAGE))
    assert {meter.bucket.key: meter.bucket.limit for meter in meters} == {
        "requests-per-minute|requests": 100,
        "requests-per-minute-by-key|requests-by-key|key=ci": 50,  # not every other key's 10
        "tokens|total_tokens:tokens": 10,  # a key cannot replace what is its tenant's
        "tokens|total_tokens:tokens|key=ci": 5,
    }


def test_a_tenant_whose_plan_is_gone_is_refused(
    tmp_path: Path,
) -> None:
    policies = Policies(config(tmp_path, "plans: [{name: gold}]"))
    left = Tenant(name="acme", plan="silver")
    assert policies.lacks_plan(left)
    assert policies.of(left).disabled
    assert not policies.lacks_plan(Tenant(name="acme", plan="gold"))
    assert not policies.lacks_plan(Tenant(name="acme"))


def test_strangers(tmp_path: Path) -> None:
    open_to_all = Policies(
        config(
            tmp_path,
            """
identity: {trusted_headers: {}, anonymous: visitors, unknown_tenants: free}
plans: [{name: free, limits: [{count: requests, limit: 1, period: second}]}]
tenants: [{name: visitors, priority: -5}]
""",
        )
    )
    anonymous, stranger = open_to_all.anonymous(), open_to_all.unknown("Some Team")
    assert anonymous is not None
    assert (anonymous.tenant, anonymous.priority, anonymous.rules) == ("visitors", -5, ())
    assert stranger is not None
    assert (stranger.tenant, stranger.plan) == ("Some Team", "free")
    assert names(stranger) == ["requests-per-second"]
    shut = Policies(config(tmp_path, "identity: {}"))
    assert shut.anonymous() is None
    assert shut.unknown("some-team") is None


def test_without_any_of_it_nothing_is_limited() -> None:
    policies = Policies(Config())
    assert policies.anonymous() is None
    assert policies.prices.of("m") is None


def test_tenants_of_a_plan_share_its_rules(tmp_path: Path) -> None:
    found = Policies(
        config(tmp_path, "plans: [{name: g, limits: [{count: concurrency, limit: 1}]}]")
    )
    one, other = (found.of(Tenant(name=name, plan="g")) for name in ("a", "b"))
    assert one.rules is other.rules  # 100,000 tenants


def test_a_broken_expression_is_counted_and_logged_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policies = Policies(
        config(
            tmp_path,
            "identity: {}\npricing: {models: [{model: m, cel:"
            " 'max(0.0, 1.0 / (double(input_tokens) - 12344.0 - 1.0))'}]}",
        )
    )
    price = policies.prices.of("m")
    assert price is not None
    with caplog.at_level(logging.ERROR, "penstock.limits"):
        for _ in range(5):
            assert price.micros(Usage(12_345, 0)) == 0
    assert policies.failures == 5
    assert [record.args[1] for record in caplog.records if record.args] == [1, 2, 4]  # type: ignore[index]


def test_the_example(tmp_path: Path) -> None:
    found = load(EXAMPLE, environment={})
    policies = Policies(found)
    acme, visitors = (policies.of(tenant) for tenant in found.tenants)
    assert policies.anonymous() == visitors
    assert names(acme) == [
        "total_tokens-per-minute",
        "concurrency",
        "total_tokens-per-minute-by-user",
        "cost-per-month",
        "requests-per-second",
        "long-answers",
    ]
    key = policies.for_key(acme, found.tenants[0].keys[0].limits)
    assert names(key)[-1] == "cost-per-day-by-key"
    price = policies.prices.of("llama-3-8b")
    assert price is not None
    assert price.micros(Usage(1_000_000, 1_000_000)) == 750_000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(1, 10**15),
    st.sampled_from(["second", "minute", "hour", "day", "month"]),
)
def test_money_is_exact_to_the_micro_unit(micros: int, period: str) -> None:
    written = f"{micros // 10**6}.{micros % 10**6:06d}"
    money = limit(
        f'{{"count": "cost", "limit": {written}, "period": "{period}", "window": "rolling"}}'
    )
    found = Policies(Config()).of(Tenant(name="a", limits=(money,)))
    assert found.rules[0].rule == TokenBucket.per(Period(period), micros)
    again = Tenant.model_validate_json(Tenant(name="a", limits=(money,)).model_dump_json())
    assert again == Tenant(name="a", limits=(money,))
