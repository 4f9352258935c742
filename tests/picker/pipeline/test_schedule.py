"""The replicas to try, best first."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from picker.decisions.left_out import Reasons
from picker.pipeline.schedule import Schedule
from picker.pipeline.sessions import session_key, session_token
from picker.request.rejection import Reason
from picker.request.role import Role
from tests.picker.fleet import IDLE, Fleet, address, chat, decided, fleet, head, load, refused
from tests.picker.pipeline.steps import begun, parsed, refusal


async def picked(made: Fleet, text: str = "Hello", **headers: str) -> list[int]:
    """Numbers of the replicas, in the order chosen."""
    decision = await decided(made, chat(text), head(**headers))
    (pick,) = decision.picks
    assert pick.role is Role.BOTH
    assert pick.addresses == decision.addresses
    return [int(one.split(".")[3].split(":")[0]) for one in pick.addresses]


async def test_the_best_and_two_to_fall_back_on() -> None:
    made = fleet([load(9, 0.9), IDLE, load(4, 0.5), load(30, 0.99)])
    assert await picked(made) == [2, 3, 1]


@pytest.mark.parametrize(
    ("subset", "allowed"),
    [
        ({address(3)}, {3}),
        ({"10.0.0.1", address(2)}, {1, 2}),
        ({"[10.0.0.1]"}, set()),
        ({"10.0.0.9:8000"}, set()),
        (set(), set()),
    ],
)
async def test_only_the_subset_that_the_gateway_allows(subset: set[str], allowed: set[int]) -> None:
    made = fleet()
    request = replace(head(), subset=frozenset(subset))
    if not allowed:
        answer = await refused(made, chat(), request)
        assert answer.status == 503
        return
    decision = await decided(made, chat(), request)
    assert set(decision.addresses) == {address(number) for number in allowed}


async def test_a_session_stays_by_id_or_token_while_its_replica_lives() -> None:
    made = fleet()
    (first, *_) = await picked(made, x_session_id="s")
    assert (await picked(made, "other " * 500, x_session_id="s"))[0] == first
    token = session_token(address(first))
    assert (await picked(made, "another " * 500, x_session_token=token))[0] == first
    made.sync([number for number in (1, 2, 3) if number != first])
    (second, *_) = await picked(made, x_session_id="s")
    assert second != first
    assert (await picked(made, "more " * 500, x_session_id="s"))[0] == second


async def test_a_token_that_is_none_of_ours_counts_as_none() -> None:
    made = fleet()
    for token in ("!", "/w==", "é", "²" * 9, session_token("10.9.9.9:1")):
        assert len(await picked(made, x_session_token=token)) == 3


async def test_a_long_session_id_is_kept_as_its_digest() -> None:
    context = begun(x_session_id="s" * 5_000)
    assert len(session_key(context)) == 32
    by_body = await parsed({"model": "m", "prompt": "x", "prompt_cache_key": "k"})
    assert session_key(by_body) == "k"
    assert session_key(begun()) == ""


async def test_if_available_means_cached() -> None:
    made = fleet()
    text, prefer = "long words " * 200, {"prefer": "respond-async, If-Available"}
    answer = await refused(made, chat(text), head(**prefer))
    assert answer.status == Reason.NOT_CACHED.value.status
    first = await decided(made, chat(text))
    again = await decided(made, chat(text), head(**prefer))
    assert again.addresses[0] == first.addresses[0]
    assert again.picks[0].matched_tokens > 0


async def test_only_replicas_that_do_the_part_asked_for() -> None:
    made = fleet([IDLE] * 4)
    made.disaggregate({1: Role.PREFILL, 2: Role.DECODE, 3: Role.BOTH, 4: Role.DECODE})
    prefill, decode = (await decided(made, chat())).picks
    assert (prefill.role, set(prefill.addresses)) == (Role.PREFILL, {address(1), address(3)})
    assert (prefill.features.prefills, prefill.features.decodes) == (True, False)
    assert (decode.features.prefills, decode.features.decodes) == (False, True)
    assert decode.role is Role.DECODE
    assert set(decode.addresses) == {address(2), address(3), address(4)}
    made.disaggregate({1: Role.PREFILL})
    assert (await refused(made, chat())).status == 503, "nobody decodes"
    assert made.in_flight() == 1


async def test_a_pool_that_was_removed_while_the_request_waited_has_no_replica() -> None:
    made = fleet()
    context = await parsed()
    context.pool = "gone"
    schedule = Schedule(
        made.picker.pools,
        made.picker.flights.ledger,
        made.picker.admission,
        Reasons(),
        random.Random(1),
        made.clock,
    )
    await refusal(schedule, context, Reason.NO_ENDPOINTS)
