"""What the replicas of a pool are sent beside the request."""

from __future__ import annotations

from picker.pipeline.decide import Decide
from picker.pipeline.forward import Forward
from picker.request.answer import Decision
from picker.request.response_ids import ResponseIds
from picker.settings import PickerSettings, PoolSettings
from tests.picker.fleet import POOL, address, fleet, policy
from tests.picker.pipeline.steps import begun, pick, take

CLIENT = {"authorization": "Bearer sk-client", "x_api_key": "sk-client", "x_other": "1"}


async def decided(*set_headers: tuple[str, str]) -> Decision:
    made = fleet()
    settings = PoolSettings(POOL, policy(), set_headers=set_headers)
    assert "sk-" not in repr(settings)
    made.picker.configure(PickerSettings((settings,)))
    context = begun(**CLIENT)
    context.pool, context.picks = POOL, (pick(address(1)),)
    await take(Forward(made.picker.pools), context)
    await take(
        Decide("p0", ResponseIds(b"key"), report_scores=False, shows_decisions=False), context
    )
    assert context.decision is not None
    return context.decision


async def test_without_settings_the_request_is_left_as_it_is() -> None:
    decision = await decided()
    assert (decision.set_headers, decision.remove_headers) == ((), ())


async def test_a_key_of_the_gateways_takes_the_place_of_the_clients() -> None:
    decision = await decided(("authorization", "Bearer sk-ours"), ("host", "models.internal"))
    assert decision.set_headers == (
        ("authorization", "Bearer sk-ours"),
        (":authority", "models.internal"),
    )
    assert set(decision.remove_headers) == {"authorization", "x-api-key"}
    assert "sk-ours" not in repr(decision)


async def test_other_headers_leave_the_clients_key_alone() -> None:
    decision = await decided(("x-team", "a"))
    assert decision.set_headers == (("x-team", "a"),)
    assert decision.remove_headers == ()
