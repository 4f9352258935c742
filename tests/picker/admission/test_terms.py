"""On what terms requests wait: whose headers are believed, and how long a gateway is made to
wait."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import pytest

from picker.admission.terms import Terms, TermsOf
from picker.request.caller import Caller
from picker.request.context import RequestContext
from picker.settings import FlowSettings, Objective
from policies.limits.plan import TenantPolicy
from tests.picker.fleet import head

OBJECTIVES = (Objective("chat", 5, 0.5), Objective("bulk", -1))
NAMED = {
    "x-gateway-inference-objective": "chat",
    "x-gateway-inference-fairness-id": "team-a",
}


def terms(
    settings: FlowSettings,
    policy: TenantPolicy,
    headers: Mapping[str, str] | None = None,
    patience_s: float = inf,
) -> Terms:
    context = RequestContext("r", head(**(headers or {})), None, caller=Caller(policy))
    context.patience_s = patience_s
    return TermsOf(settings)(context)


@pytest.mark.parametrize("trust_headers", [True, False])
@pytest.mark.parametrize("flow_headers", [True, False])
def test_only_who_is_trusted_names_an_objective_and_a_flow(
    *, trust_headers: bool, flow_headers: bool
) -> None:
    settings = FlowSettings(objectives=OBJECTIVES, trust_headers=trust_headers)
    policy = TenantPolicy("acme", priority=2, flow_headers=flow_headers)
    found = terms(settings, policy, NAMED)
    if trust_headers or flow_headers:
        assert (found.priority, found.flow, found.due_s) == (5, "acme/team-a", 1000.5)
    else:
        assert (found.priority, found.flow, found.due_s) == (2, "acme", inf)


@pytest.mark.parametrize(
    ("priority", "ttl_s"), [(3, 45.0), (0, 45.0), (-1, 15.0), (7, 90.0), (-2, 2.0)]
)
def test_a_class_may_have_a_time_of_its_own(priority: int, ttl_s: float) -> None:
    settings = FlowSettings(class_ttl_s={7: 90.0, -2: 2.0})
    assert terms(settings, TenantPolicy("acme", priority=priority)).ttl_s == ttl_s


def test_an_objective_that_nobody_has_defined_changes_nothing() -> None:
    settings = FlowSettings(objectives=OBJECTIVES, trust_headers=True)
    named = {"x-llm-d-inference-objective": "other"}
    assert terms(settings, TenantPolicy("acme", priority=2), named).priority == 2


def test_a_flow_of_one_tenant_is_never_another_tenants() -> None:
    settings = FlowSettings(trust_headers=True)
    named = {"x-llm-d-inference-fairness-id": "rival"}
    assert terms(settings, TenantPolicy("acme"), named).flow != "rival"
    long = {"x-llm-d-inference-fairness-id": "x" * 10_000}
    assert len(terms(settings, TenantPolicy("acme"), long).flow) < 100


def test_how_long_it_may_wait() -> None:
    settings = FlowSettings(ttl_s=60, sheddable_ttl_s=15, objectives=OBJECTIVES, trust_headers=True)
    acme = TenantPolicy("acme")
    assert terms(settings, acme).ttl_s == 60
    assert terms(settings, TenantPolicy("low", priority=-1)).ttl_s == 15
    assert terms(settings, acme, {"x-gateway-inference-objective": "bulk"}).ttl_s == 15
    assert terms(settings, acme, patience_s=10).ttl_s == 9, "less than its gateway waits"
