"""What ``auto`` weighs against what, and that it learns."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from msgspec.structs import replace

from policies.routing.auto import Auto
from policies.routing.types import (
    Considered,
    Features,
    Observation,
    PoolView,
    RoutingRequest,
)
from tests.policies.routing.pools import adapter_on, everyone, order, pool_of, request_for

IDLE = (0.0, 0.0)


def ended(
    policy: Auto,
    *,
    prompt: float = 2_000,
    cached: float = 0,
    output: float = 200,
    ttft_s: float = 0.13,
    each_s: float = 0.02,
    times: int = 50,
) -> None:
    """Requests that met an idle endpoint have ended."""
    pool = pool_of(IDLE)
    request = request_for(pool, prompt_tokens=prompt, matched={0: cached})
    for _ in range(times):
        policy.observe(
            Observation(
                slot=0,
                features=Features.seen(request, pool, 0),
                prompt_tokens=prompt,
                cached_tokens=cached,
                output_tokens=output,
                ttft_s=ttft_s,
                duration_s=ttft_s + each_s * (output - 1),
                ok=True,
            ),
            0.0,
        )


def test_a_cached_prefix_is_worth_a_short_wait_and_not_a_long_one() -> None:
    policy, pool = Auto(), pool_of(IDLE, IDLE)
    request = request_for(pool, prompt_tokens=4_000, matched={0: 3_000})
    assert order(policy, pool, request) == [0, 1]
    pool.in_flight_prefill_tokens[0] = 2_000
    assert order(policy, pool, request) == [0, 1]
    pool.in_flight_prefill_tokens[0] = 9_000
    assert order(policy, pool, request) == [1, 0]


def test_a_long_prompt_spares_those_that_are_answered_and_a_short_one_its_own_time() -> None:
    policy, pool = Auto(), pool_of(IDLE, IDLE)
    pool.in_flight_requests[0] = 20  # streams; the other endpoint has one long prompt to do
    pool.in_flight_requests[1] = 1
    pool.in_flight_prefill_tokens[1] = 10_000
    assert order(policy, pool, request_for(pool, prompt_tokens=20_000))[0] == 1
    assert order(policy, pool, request_for(pool, prompt_tokens=200))[0] == 0


@pytest.mark.parametrize(("ahead", "first"), [(0, 0), (20_000, 1)])
def test_long_prompts_gather_only_where_all_have_work_before_them(ahead: int, first: int) -> None:
    policy, pool = Auto(), pool_of(IDLE, IDLE)
    pool.in_flight_requests[:] = (4, 1)
    pool.in_flight_prefill_tokens[:] = (ahead, ahead + 2_500)
    assert order(policy, pool, request_for(pool, prompt_tokens=20_000))[0] == first


def test_a_crowd_is_forgotten_when_it_is_gone() -> None:
    policy, rng = Auto(), random.Random(1)
    pool = pool_of(IDLE, IDLE)
    pool.in_flight_requests[:] = (4, 1)
    request = request_for(pool, prompt_tokens=20_000)
    firsts = []
    for now_s, ahead in ((0.0, 20_000), (1.0, 0), (1_000.0, 0)):
        pool.in_flight_prefill_tokens[:] = (ahead, ahead + 2_500)
        ranking = policy.rank(request, pool, everyone(pool), 1, now_s, rng)
        firsts.append(ranking.slots.item(0))
    assert firsts == [1, 1, 0]


def test_a_burst_of_equal_requests_spreads_evenly() -> None:
    policy, pool, rng = Auto(), pool_of(*[IDLE] * 8), random.Random(3)
    request = request_for(pool, prompt_tokens=1_000)
    sent: Counter[int] = Counter()
    for _ in range(200):
        slot = int(policy.rank(request, pool, everyone(pool), 1, 0.0, rng).slots[0])
        sent[slot] += 1
        pool.in_flight_requests[slot] += 1
        pool.in_flight_prefill_tokens[slot] += 1_000
    assert set(sent.values()) == {25}


def test_ties_go_to_each_alike() -> None:
    policy, pool, rng = Auto(), pool_of(IDLE, IDLE, IDLE), random.Random(4)
    request = request_for(pool)
    for count in (1, 3):
        first = Counter(
            int(policy.rank(request, pool, everyone(pool), count, 0.0, rng).slots[0])
            for _ in range(600)
        )
        assert min(first.values()) > 150


def test_where_room_is_scarce_a_shared_prefix_counts_more() -> None:
    def first(kv_usage: float) -> int:
        pool = pool_of((0, kv_usage), (0, kv_usage))
        pool.kv_capacity_tokens[:] = 100_000
        pool.in_flight_prefill_tokens[0] = 12_000
        return order(Auto(), pool, request_for(pool, prompt_tokens=8_000, matched={0: 7_000}))[0]

    assert first(0.1) == 1
    assert first(1.0) == 0


def test_load_that_is_not_ours_counts() -> None:
    policy, pool = Auto(), pool_of((6, 0.5), IDLE)
    pool.foreign_requests[0] = 36
    assert order(policy, pool) == [1, 0]


def test_an_adapter_goes_where_it_runs_then_where_there_is_room() -> None:
    policy, pool = Auto(), pool_of(IDLE, IDLE, IDLE)
    pool.lora_active[:] = [4, 4, 3]
    pool.in_flight_requests[:] = [6, 5, 5]
    here = adapter_on(pool, running={0})
    assert order(policy, pool, request_for(pool, adapter=here))[0] == 0
    nowhere = adapter_on(pool)
    assert order(policy, pool, request_for(pool, adapter=nowhere))[0] == 2
    elsewhere = adapter_on(pool, running={0}, served={1, 2})
    assert 0 not in order(policy, pool, request_for(pool, adapter=elsewhere))
    assert order(policy, pool, request_for(pool, adapter=adapter_on(pool, served=set()))) == []


def test_it_learns_how_fast_the_engines_are_and_predicts_it() -> None:
    policy, pool = Auto(), pool_of(IDLE)
    for prompt in (500.0, 4_000.0, 8_000.0):
        ended(policy, prompt=prompt, ttft_s=0.05 + prompt / 4_000, times=60)
    ranking = policy.rank(
        request_for(pool, prompt_tokens=6_000), pool, everyone(pool), 1, 0.0, random.Random(1)
    )
    assert ranking.predicted_ttft_s is not None
    assert ranking.predicted_ttft_s[0] == pytest.approx(0.05 + 6_000 / 4_000, rel=0.05)


def test_answers_that_do_not_stream_do_not_make_prefills_slow() -> None:
    policy, taught = Auto(), Auto()
    ended(policy, ttft_s=3.0, each_s=0.02)
    ended(taught, ttft_s=6.0, each_s=0.0, output=300)
    pool = pool_of(IDLE, IDLE)
    request = request_for(pool, prompt_tokens=2_000)

    def predicted(policy: Auto) -> float:
        found = policy.rank(request, pool, everyone(pool), 1, 0.0, random.Random(1))
        assert found.predicted_ttft_s is not None
        return float(found.predicted_ttft_s[0])

    assert predicted(policy) > 1.0
    assert predicted(taught) < 1.0
    means = taught.snapshot()
    assert means["output_tokens"] == pytest.approx(300, rel=0.1)
    assert means["decode_s"] == pytest.approx(5.5, rel=0.1)  # of 6 s in all


def test_times_without_any_relation_to_work_still_spread_load() -> None:
    policy, pool = Auto(), pool_of(IDLE, IDLE)
    for index in range(300):
        ended(policy, prompt=500.0 + 100 * (index % 50), ttft_s=0.5 - index % 50 / 200, times=1)
    pool.in_flight_prefill_tokens[0] = 20_000
    assert {order(policy, pool)[0] for _ in range(20)} == {1}


def test_where_the_room_is_not_known_it_costs_what_it_costs_elsewhere() -> None:
    pool = pool_of((0, 1.0), (0, 1.0))
    pool.kv_capacity_tokens[0] = 100_000
    pool.in_flight_prefill_tokens[1] = 10
    assert order(Auto(), pool, request_for(pool, prompt_tokens=8_000))[0] == 0


def test_an_adapter_is_not_tied_to_one_engine_that_does_not_count_slots() -> None:
    pool = pool_of(IDLE, IDLE)
    pool.lora_slots[:] = 0
    pool.lora_active[0] = 1
    pool.in_flight_prefill_tokens[0] = 2_000
    adapter = adapter_on(pool, waiting={0})
    assert order(Auto(), pool, request_for(pool, adapter=adapter)) == [1, 0]


def test_answers_that_say_nothing_of_the_engine_teach_nothing() -> None:
    policy = Auto()
    pool = pool_of(IDLE, IDLE)
    seen = Observation(
        slot=0,
        features=Features.seen(request_for(pool), pool, 0),
        prompt_tokens=1_000,
        cached_tokens=None,
        output_tokens=10,
        ttft_s=1.0,
        duration_s=2.0,
        ok=True,
    )
    for useless in (
        replace(seen, ok=False),
        replace(seen, ttft_s=None),
        replace(seen, slot=1),  # it was sent to endpoint 0 first
    ):
        policy.observe(useless, 0.0)
    assert policy.snapshot() == {}
    policy.observe(seen, 0.0)
    assert policy.snapshot()


def test_means_outlive_the_process() -> None:
    policy = Auto()
    ended(policy, output=900, cached=1_500)
    again = Auto()
    again.restore(policy.snapshot())
    before, after = (dict(one.snapshot()) for one in (policy, again))
    before.pop("seen"), after.pop("seen")
    assert after == before


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"seen": 3},
        {"output_tokens": "many"},
        {"output_tokens": 1, "decode_s": -1, "ttft_s": 1, "hit_rate": 0, "prompt_tokens": 1},
        {"output_tokens": 1, "decode_s": 1, "ttft_s": 1, "hit_rate": 2, "prompt_tokens": 1},
        {"output_tokens": 1, "decode_s": 1, "ttft_s": 1, "hit_rate": 0, "prompt_tokens": 0},
        {
            "output_tokens": float("nan"),
            "decode_s": 1,
            "ttft_s": 1,
            "hit_rate": 0,
            "prompt_tokens": 1,
        },
    ],
)
def test_a_damaged_snapshot_changes_nothing(damaged: Mapping[str, object]) -> None:
    policy = Auto()
    policy.restore(damaged)
    assert policy.snapshot() == {}


def test_nothing_known_of_request_and_endpoints_is_no_trouble() -> None:
    pool = PoolView.zeros(3)
    request = RoutingRequest(0.0, 0.0, np.zeros(3))
    assert sorted(order(Auto(), pool, request)) == [0, 1, 2]
    assert order(Auto(), pool, request, among=[]) == []


@pytest.mark.parametrize("prompt", [0.0, 40.0, 1_000.0])
def test_a_burst_spreads_within_one_whatever_was_learned(prompt: float) -> None:
    policy, rng = Auto(), random.Random(5)
    for size in (50, 400, 3_000):
        ended(policy, prompt=size, ttft_s=0.03 + size / 9_000, output=300)
    pool = pool_of(*[IDLE] * 8)
    request = request_for(pool, prompt_tokens=prompt)
    for _ in range(200):
        slot = int(policy.rank(request, pool, everyone(pool), 1, 0.0, rng).slots[0])
        pool.in_flight_requests[slot] += 1
        pool.in_flight_prefill_tokens[slot] += prompt
    assert np.ptp(pool.in_flight_requests) <= 1


def test_a_slower_replica_gets_less() -> None:
    policy, pool, rng = Auto(), pool_of(IDLE, IDLE), random.Random(6)
    request = request_for(pool, prompt_tokens=2_000)
    for _ in range(100):
        for slot, pace in ((0, 1.0), (1, 3.0)):
            seen = Observation(
                slot=slot,
                features=Features.seen(request, pool, slot),
                prompt_tokens=2_000,
                cached_tokens=0,
                output_tokens=200,
                ttft_s=0.2 * pace,
                duration_s=(0.2 + 0.02 * 199) * pace,
                ok=True,
            )
            policy.observe(seen, 0.0)
    for _ in range(90):
        slot = int(policy.rank(request, pool, everyone(pool), 1, 0.0, rng).slots[0])
        pool.in_flight_requests[slot] += 1
        pool.in_flight_prefill_tokens[slot] += 2_000
    fast, slow = pool.in_flight_requests
    assert 0 < slow < 0.6 * fast
    policy.reset(1)  # another endpoint
    predicted = policy.rank(request, PoolView.zeros(2), everyone(pool), 2, 0.0, rng)
    assert predicted.predicted_ttft_s is not None
    assert predicted.predicted_ttft_s[0] == pytest.approx(predicted.predicted_ttft_s[1], rel=0.8)


def considered(policy: Auto, pool: PoolView, request: RoutingRequest) -> Considered:
    ranking = policy.rank(request, pool, everyone(pool), 1, 0.0, random.Random(1))
    assert ranking.considered is not None
    return ranking.considered


def test_an_objective_is_met_at_the_least_harm() -> None:
    policy, pool = Auto(), pool_of(IDLE, IDLE, IDLE)
    pool.in_flight_requests[:] = [0, 1, 9]
    pool.in_flight_prefill_tokens[:] = [9_000, 2_000, 0]
    plain = request_for(pool, prompt_tokens=2_000)
    seen = considered(policy, pool, plain)
    ttft_s, harm_s = seen.predicted_ttft_s, seen.harm_s
    assert ttft_s is not None
    assert harm_s is not None
    assert list(np.argsort(ttft_s)) == [2, 1, 0]
    assert list(np.argsort(harm_s)) == [0, 1, 2]
    for objective_s, first in (
        (60.0, 0),  # all meet it: the least harm
        (2.0 * ttft_s[1], 1),
        (1.3 * ttft_s[2], 2),
        (0.001, 2),  # none does: the least late
        (5e-324, 2),
    ):
        asked = replace(plain, ttft_objective_s=objective_s)
        found = order(policy, pool, asked)
        assert found[0] == first
        assert sorted(found) == [0, 1, 2]


def test_an_objective_for_further_tokens_keeps_away_from_crowds() -> None:
    policy, pool = Auto(), pool_of(IDLE, IDLE)
    pool.in_flight_requests[:] = [60, 5]
    pool.in_flight_prefill_tokens[:] = [0, 60_000]
    plain = request_for(pool, prompt_tokens=100)
    assert order(policy, pool, plain)[0] == 0
    tpot_s = considered(policy, pool, plain).predicted_tpot_s
    assert tpot_s is not None
    asked = replace(plain, tpot_objective_s=float(tpot_s.mean()))
    assert order(policy, pool, asked)[0] == 1


def test_each_part_of_a_request_is_placed_by_its_own_costs() -> None:
    pool = pool_of(IDLE, IDLE)
    pool.in_flight_requests[0] = 60
    pool.in_flight_prefill_tokens[1] = 3_000
    request = request_for(pool, prompt_tokens=4_000)
    prefill, decode = replace(request, decodes=False), replace(request, prefills=False)
    assert order(Auto(), pool, prefill)[0] == 0  # streams do not matter
    assert order(Auto(), pool, decode)[0] == 1  # prefills do not


def test_engines_that_report_nothing_are_told_apart_by_what_was_sent_there() -> None:
    policy, pool = Auto(), PoolView.zeros(3)
    pool.in_flight_requests[:] = [4, 1, 4]
    pool.in_flight_prefill_tokens[:] = [900, 0, 0]
    assert order(policy, pool) == [1, 2, 0]


def test_a_session_stays_until_a_new_start_is_better() -> None:
    policy, pool = Auto(), pool_of(IDLE, IDLE)
    request = request_for(pool, prompt_tokens=500, session_slot=0)
    pool.in_flight_requests[0] = 2
    pool.in_flight_prefill_tokens[0] = 500
    assert order(policy, pool, request) == [0, 1]
    pool.in_flight_prefill_tokens[0] = 30_000
    assert order(policy, pool, request) == [1, 0]
