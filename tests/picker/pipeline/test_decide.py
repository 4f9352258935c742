"""The decision as the transports need it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from picker.pipeline.decide import Decide
from picker.request.answer import Decision
from picker.request.choice import Choice
from picker.request.context import RequestContext
from picker.request.response_ids import ResponseIds
from picker.request.role import Role
from tests.picker.fleet import POOL, address
from tests.picker.pipeline.steps import begun, parsed, pick, take


async def decided(
    context: RequestContext, *, report_scores: bool = False, shows: bool = False
) -> Decision:
    context.pool = POOL
    context.picks = (replace(pick(address(1), address(2)), scores=(0.5, 0.25)),)
    await take(
        Decide("p0", ResponseIds(b"key"), report_scores=report_scores, shows_decisions=shows),
        context,
    )
    assert context.decision is not None
    return context.decision


async def test_where_it_goes_and_who_decided() -> None:
    decision = await decided(begun())
    assert decision.destination() == f"{address(1)},{address(2)}"
    assert decision.metadata == {"id": "p0-1", "picker": "p0"}
    assert decision.scores is None
    assert (decision.body, decision.rename, decision.wants_session_token) == (None, None, False)


async def test_what_the_gateway_sends_for_itself_is_not_shown() -> None:
    context = begun()
    context.set_headers.append(("authorization", "Bearer of-the-gateway"))
    decision = await decided(context)
    assert decision.set_headers[0][1].endswith("of-the-gateway")
    assert "of-the-gateway" not in repr(decision)


async def test_what_clients_may_not_set_is_removed_where_it_is_set() -> None:
    decision = await decided(begun(x_penstock_pool="x", x_envoy_max_retries="9", other="y"))
    assert set(decision.remove_headers) == {"x-penstock-pool", "x-envoy-max-retries"}


async def test_scores_only_when_they_are_asked_for() -> None:
    decision = await decided(begun(), report_scores=True)
    assert decision.scores == {address(1): 0.5, address(2): 0.25}


@pytest.mark.parametrize("ttft_s", [0.0314159, None])
async def test_what_clients_are_shown_of_it(ttft_s: float | None) -> None:
    context = begun()
    chosen = pick(address(1))
    context.choices = (Choice(Role.BOTH, "mine", (address(1),), chosen.features, "", None, ttft_s),)
    decision = await decided(context, shows=True)
    ttft_ms = "" if ttft_s is None else "31.4"
    assert decision.metadata["shown"] == {"first": address(1), "ttft_ms": ttft_ms}
    assert decision.shown is not None
    predicted = (("x-penstock-predicted-ttft-ms", ttft_ms),) if ttft_ms else ()
    assert decision.shown.headers(address(1)) == (("x-penstock-endpoint", address(1)), *predicted)
    assert decision.shown.headers(address(2)) == (("x-penstock-endpoint", address(2)),)


async def test_what_our_own_filters_need() -> None:
    context = await parsed()
    context.asked_model, context.served_model = "asked", 'ser"ved'
    context.model_changed = context.strip_usage = True
    context.response_headers = (("x-ratelimit-limit-requests", "5"),)
    decision = await decided(context)
    assert decision.rename == ('ser"ved', "asked")
    assert decision.metadata == {
        "id": "p0-1",
        "picker": "p0",
        "strip_usage": True,
        "response_headers": {"x-ratelimit-limit-requests": "5"},
        "served_model": '"ser\\"ved"',
        "asked_model": '"asked"',
    }


async def test_a_client_with_a_session_gets_the_token_of_its_replica() -> None:
    for header in ("x_session_id", "x_session_token"):
        decision = await decided(begun(**{header: "s"}))
        assert decision.wants_session_token
        assert decision.metadata["session_token"] == "MTAuMC4wLjE6ODAwMA=="
