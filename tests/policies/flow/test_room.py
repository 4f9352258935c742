"""Where one more request would begin at once."""

from __future__ import annotations

import random

import numpy as np
import pytest

from policies.flow.room import Batches, Reserved, has_room, has_spare_room, room
from policies.routing.types import PoolView

SPEED = 10_000.0


def view(**columns: float) -> PoolView:
    made = PoolView.zeros(1)
    made.in_flight_requests[:] = 5
    for name, value in columns.items():
        getattr(made, name)[:] = value
    return made


def begins(
    seen: PoolView, reserved: Reserved | None = None, batches: Batches | None = None
) -> bool:
    given = reserved or Reserved.none(1), batches or Batches()
    one = has_room(seen, *given, 0, SPEED)
    assert room(seen, *given, np.array([0]), SPEED).tolist() == [one]
    return one


@pytest.mark.parametrize(
    ("full", "free"),
    [
        ({"in_flight_prefill_tokens": 3000.0}, {"in_flight_prefill_tokens": 1000.0}),
        ({"waiting_requests": 3.0}, {"waiting_requests": 1.0}),
        ({"kv_usage": 0.995, "waiting_requests": 1.0}, {"kv_usage": 0.9, "waiting_requests": 1.0}),
        ({"kv_usage": 0.995, "waiting_requests": 1.0}, {"kv_usage": 1.0}),
    ],
)
def test_an_engine_is_full_by_backlog_queue_or_cache(
    full: dict[str, float], free: dict[str, float]
) -> None:
    assert not begins(view(**full))
    assert begins(view(**free))
    assert begins(view(**{**full, "in_flight_requests": 1.0})), "others' requests fill it"


def test_what_was_let_go_counts_at_once() -> None:
    reserved = Reserved.none(1)
    reserved.add(0, 1.0, 3000.0)
    assert not begins(view(), reserved)
    reserved.add(0, -1.0, -3000.0)
    assert begins(view(), reserved)


def test_requests_that_wait_for_a_slot_of_their_adapter_are_in_nobodys_way() -> None:
    assert begins(view(waiting_requests=5.0, lora_slots=4.0, lora_active=4.0))
    assert not begins(view(waiting_requests=5.0, lora_slots=4.0, lora_active=3.0))


def test_a_batch_is_learned_under_steady_load() -> None:
    """There is always something to prefill then; but what runs stays the same."""
    batches = Batches()
    for running in (5, 8, 8, 8):
        batches.saw(0, running=running, waiting=5, kv_usage=0.5, ahead_s=1.0)
    assert batches.bound(0) > 8
    batches.saw(0, running=8, waiting=0, kv_usage=0.5, ahead_s=1.0)
    for _ in range(3):
        batches.saw(0, running=8, waiting=5, kv_usage=0.5, ahead_s=1.0)
    assert batches.bound(0) > 8, "nothing waited between"
    batches.saw(0, running=8, waiting=3, kv_usage=0.5, ahead_s=1.0)
    assert batches.bound(0) == 8


def test_a_batch_is_learned_from_what_waits_for_nothing_else() -> None:
    batches = Batches()
    batches.saw(0, running=8, waiting=5, kv_usage=0.5, ahead_s=1.0)
    batches.saw(0, running=8, waiting=5, kv_usage=0.99, ahead_s=0.0)
    assert begins(view(in_flight_requests=20.0), batches=batches)
    batches.saw(0, running=8, waiting=5, kv_usage=0.5, ahead_s=0.0)
    assert not begins(view(in_flight_requests=10.0), batches=batches)
    assert begins(view(in_flight_requests=9.0), batches=batches)
    batches.saw(0, running=16, waiting=0, kv_usage=0.5, ahead_s=0.0)
    assert begins(view(in_flight_requests=10.0), batches=batches), "it runs more by now"
    batches.reset(0)
    assert begins(view(in_flight_requests=200.0), batches=batches), "another one"


def test_one_slot_is_judged_as_many_are() -> None:
    rng, slots = random.Random(1), 300
    seen, reserved, batches = PoolView.zeros(slots), Reserved.none(slots), Batches()
    for slot in range(slots):
        seen.in_flight_requests[slot] = rng.randrange(8)
        seen.waiting_requests[slot] = rng.randrange(4)
        seen.kv_usage[slot] = rng.choice((0.2, 0.97, 0.985, 1.0))
        seen.in_flight_prefill_tokens[slot] = rng.choice((0.0, 1400.0, 1600.0))
        seen.lora_slots[slot], seen.lora_active[slot] = rng.choice((0, 4)), rng.randrange(5)
        reserved.add(slot, rng.randrange(2), rng.choice((0.0, 200.0)))
        if rng.random() < 0.5:
            batches.saw(slot, running=4, waiting=5, kv_usage=0.1, ahead_s=0.0)
    every = room(seen, reserved, batches, np.arange(slots), SPEED)
    assert 0 < every.sum() < slots
    assert every.tolist() == [has_room(seen, reserved, batches, s, SPEED) for s in range(slots)]


def test_an_engine_that_nobody_knows_is_not_flooded() -> None:
    batches = Batches()
    assert begins(view(in_flight_requests=500.0), batches=batches), "it reports nothing"
    batches.saw(0, running=0, waiting=0, kv_usage=0.1, ahead_s=0.0)
    assert not begins(view(in_flight_requests=20.0), batches=batches)
    batches.saw(0, running=16, waiting=0, kv_usage=0.1, ahead_s=0.0)
    assert begins(view(in_flight_requests=40.0), batches=batches)
    batches.saw(0, running=2, waiting=0, kv_usage=0.1, ahead_s=0.0)
    assert begins(view(in_flight_requests=40.0), batches=batches), "it has shown that it can"


def test_a_bound_that_was_learned_too_low_grows_while_nothing_waits() -> None:
    """Of short requests fewer run at a time than are under way: the bound itself keeps it so."""
    batches = Batches()
    batches.saw(0, running=2, waiting=5, kv_usage=0.1, ahead_s=0.0)
    assert batches.bound(0) == 2
    for _ in range(20):
        ours = batches.bound(0) + 2
        batches.saw(0, running=ours // 2, waiting=0, kv_usage=0.1, ahead_s=0.0, ours=ours)
    assert batches.bound(0) > 128
    batches.saw(0, running=64, waiting=9, kv_usage=0.1, ahead_s=0.0, ours=130)
    assert batches.bound(0) == 64


def test_a_right_bound_is_hardly_exceeded() -> None:
    batches, truth, most = Batches(), 64, 0.0
    batches.saw(0, running=truth, waiting=5, kv_usage=0.1, ahead_s=0.0)
    for on_its_way in [4] * 40:
        ours = batches.bound(0) + 2
        there = ours - on_its_way
        running = min(there, truth)
        batches.saw(
            0, running=running, waiting=there - running, kv_usage=0.1, ahead_s=0.0, ours=ours
        )
        most = max(most, batches.bound(0))
    assert most <= truth + 6


def test_the_first_bound_grows_where_next_to_nothing_is_seen_to_run() -> None:
    """A scrape finds few of the requests that take some milliseconds."""
    batches = Batches()
    batches.saw(0, running=0, waiting=0, kv_usage=0.1, ahead_s=0.0)
    ours = batches.bound(0) + 2
    batches.saw(0, running=1, waiting=0, kv_usage=0.1, ahead_s=0.0, ours=ours)
    assert batches.bound(0) == ours, "the last may not have come there yet"
    for _ in range(8):
        ours = batches.bound(0) + 2
        batches.saw(0, running=1, waiting=0, kv_usage=0.1, ahead_s=0.0, ours=ours)
    assert batches.bound(0) > 200


def test_requests_that_may_be_shed_leave_others_a_part_of_an_engine() -> None:
    def spare(seen: PoolView) -> bool:
        return has_spare_room(seen, Reserved.none(1), batches, 0, SPEED)

    batches = Batches()
    batches.saw(0, running=100, waiting=5, kv_usage=0.1, ahead_s=0.0)
    assert spare(view(in_flight_requests=94.0))
    for full in (
        view(in_flight_requests=96.0),
        view(in_flight_prefill_tokens=1000.0),
        view(kv_usage=0.96, waiting_requests=1.0),
    ):
        assert begins(full, batches=batches)
        assert not spare(full)
    assert spare(view(in_flight_requests=1.0, in_flight_prefill_tokens=1000.0)), "nearly idle"
    assert not spare(view(waiting_requests=3.0)), "no room at all"
