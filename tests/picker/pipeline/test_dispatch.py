"""A decided request counts as sent at once."""

from __future__ import annotations

from picker.pipeline.dispatch import Dispatch
from picker.request.role import Role
from tests.picker.fleet import POOL, address, fleet
from tests.picker.pipeline.steps import parsed, pick, take


async def test_it_is_in_flight_at_its_first_choice() -> None:
    made = fleet()
    context = await parsed()
    context.pool, context.prompt_tokens, context.output_tokens = POOL, 100.0, 20.0
    context.picks = (pick(address(2), address(1), matched_tokens=60.0),)
    await take(Dispatch(made.picker.flights, made.picker.admission, 60.0), context)
    state = made.picker.pools[POOL].state
    slot = state.slot_of[address(2)]
    assert state.view.in_flight_requests.sum() == state.view.in_flight_requests[slot] == 1
    assert state.view.in_flight_prefill_tokens[slot] == 40
    assert state.view.in_flight_kv_tokens[slot] == 120
    assert len(made.picker.flights) == 1


async def test_each_role_counts_where_it_is_done() -> None:
    made = fleet()
    context = await parsed()
    context.pool, context.prompt_tokens, context.output_tokens = POOL, 100.0, 20.0
    context.picks = (
        pick(address(1), role=Role.PREFILL, matched_tokens=60.0),
        pick(address(2), role=Role.DECODE),
    )
    await take(Dispatch(made.picker.flights, made.picker.admission, 60.0), context)
    view, slot_of = made.picker.pools[POOL].state.view, made.picker.pools[POOL].state.slot_of
    one, two = slot_of[address(1)], slot_of[address(2)]
    assert view.in_flight_prefill_tokens[[one, two]].tolist() == [40, 0]
    assert view.in_flight_kv_tokens[[one, two]].tolist() == [100, 120]
    made.picker.flights.drop(context.id)
    assert made.is_settled
