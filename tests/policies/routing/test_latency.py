"""What is learned of times to first token and per token."""

from __future__ import annotations

import random

import numpy as np
import pytest
from msgspec.structs import replace

from policies.routing.latency import Latencies
from policies.routing.types import Features, Observation, PoolView, RoutingRequest
from tests.policies.routing.pools import pool_of, request_for


def seen_at(
    pool: PoolView, slot: int, request: RoutingRequest, first_s: float, each_s: float, tokens: int
) -> Observation:
    return Observation(
        slot=slot,
        features=Features.seen(request, pool, slot),
        prompt_tokens=request.prompt_tokens,
        cached_tokens=None,
        output_tokens=tokens,
        ttft_s=first_s,
        duration_s=first_s + each_s * (tokens - 1),
        ok=True,
    )


def first_s(work: float, requests: float) -> float:
    return 0.05 + work / 5_000 + 0.001 * requests


def each_s(requests: float) -> float:
    return 0.02 + 0.0005 * requests


def taught(times: int, paces: tuple[float, ...] = (1.0,), *, streams: bool = True) -> Latencies:
    """By requests of all sizes at endpoints with all loads."""
    latencies, rng = Latencies(), random.Random(1)
    pool = pool_of(*[(0, 0)] * len(paces))
    for _ in range(times):
        for slot, pace in enumerate(paces):
            pool.in_flight_requests[slot] = rng.randrange(40)
            pool.in_flight_prefill_tokens[slot] = rng.choice((0, rng.randrange(20_000)))
            request = request_for(pool, prompt_tokens=rng.randrange(100, 8_000))
            work = pool.in_flight_prefill_tokens.item(slot) + request.prompt_tokens
            requests, noise = pool.in_flight_requests.item(slot), rng.lognormvariate(0, 0.1)
            first, each = first_s(work, requests), each_s(requests + 1)
            tokens = rng.randrange(20, 800)
            seen = seen_at(pool, slot, request, pace * first * noise, pace * each * noise, tokens)
            if not streams:
                seen = replace(seen, ttft_s=seen.duration_s - 1e-4)
            assert latencies.observe(seen, seen.ttft_s or 0.0) is streams
    return latencies


@pytest.mark.parametrize("streams", [True, False])
def test_both_speeds_are_learned_from_streams_and_from_whole_answers(streams: bool) -> None:
    latencies = taught(400, streams=streams)
    assert latencies.prefill_s == pytest.approx(1 / 5_000, rel=0.3)
    requests = np.array([5.0, 30.0])
    expected = [each_s(6), each_s(31)]
    tolerance = 0.05 if streams else 0.2
    assert latencies.token_s(requests, np.zeros(2)) == pytest.approx(expected, rel=tolerance)


def test_predictions_are_within_a_tenth_after_200_requests() -> None:
    latencies = taught(200)
    work, requests = np.array([500.0, 4_000.0, 8_000.0]), np.array([0.0, 10.0, 30.0])
    predicted = latencies.prefills_s(0.0, work) + latencies.overhead_s(requests)
    expected = [first_s(*one) for one in zip(work, requests, strict=True)]
    assert predicted == pytest.approx(expected, rel=0.1)


def test_kinds_of_different_speed_share_what_they_have_in_common() -> None:
    latencies = taught(100, (1.0, 2.0, 1.0, 2.0))
    paces = latencies.first_paces.take(np.arange(5))
    assert paces[1] / paces[0] == pytest.approx(2.0, rel=0.25)
    assert paces[4] == 1.0  # a new one
    each = latencies.each_paces.take(np.arange(2))
    assert each * latencies.token_s(np.array([9.0, 9.0]), np.zeros(2)) == pytest.approx(
        [each_s(10), 2 * each_s(10)], rel=0.15
    )


def test_what_was_learned_comes_back_by_slot() -> None:
    latencies, again = taught(100, (1.0, 3.0)), Latencies()
    again.restore(latencies.snapshot())
    assert again.snapshot() == latencies.snapshot()
    for damaged in ({"first": "x", "slots": 3}, {"first": [1e99] * 4, "slots": {"0": 1}}, {}):
        before = Latencies()
        fresh = before.snapshot()
        before.restore(damaged)
        assert before.snapshot() == fresh


def test_a_part_of_a_request_teaches_that_part_alone() -> None:
    latencies, pool = Latencies(), pool_of((0, 0))
    before = latencies.first, latencies.each
    request = request_for(pool, prompt_tokens=1_000)
    for part, changed in (({"prefills": False}, 1), ({"decodes": False}, 0)):
        one = Latencies()
        for _ in range(40):
            seen = seen_at(pool, 0, replace(request, **part), 9.0, 0.5, 100)
            one.observe(seen, 9.0)
        assert (one.first, one.each)[changed] != before[changed]
        assert (one.first, one.each)[1 - changed] == before[1 - changed]
