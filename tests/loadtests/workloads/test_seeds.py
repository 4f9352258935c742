"""What a seed changes, and what it must not."""

import heapq
from itertools import pairwise

import pytest

from loadtests.workloads.catalogue import CATALOGUE, Load
from loadtests.workloads.prompts import Segment
from loadtests.workloads.sessions import UNLOADED_S_PER_TOKEN, UNLOADED_TTFT_S, Request
from loadtests.workloads.traces import Recorded, Trace


def test_a_seed_moves_the_requests_of_a_trace_within_their_gaps() -> None:
    instants = (0.0, 0.0, 0.0, 3.0, 3.0, 10.0, 11.0)
    requests = tuple(
        Recorded(at_s, (Segment(f"s/{index}", 10),), index + 1)
        for index, at_s in enumerate(instants)
    )
    trace = Trace("t", requests)
    moved, other = trace.jittered(11), trace.jittered(12)
    assert moved == trace.jittered(11)
    assert moved != other
    times_s = [each.at_s for each in moved.requests]
    assert times_s == sorted(times_s)
    # Requests of one instant stay together.
    assert [a == b for a, b in pairwise(times_s)] == [a == b for a, b in pairwise(instants)]
    assert 1.5 <= times_s[3] <= 6.5
    assert 6.5 <= times_s[5] <= 10.5
    assert sorted(each.output_tokens for each in moved.requests) == list(range(1, 8))


@pytest.mark.parametrize("name", ["agentic-bursts", "multi-tenant"])
def test_bursts_bring_as_many_requests_as_were_asked_for(name: str) -> None:
    seed = 11
    load = Load.open(2.0, duration_s=300.0, cv=CATALOGUE[name].load.cv)
    traffic = load.traffic(CATALOGUE[name].make(seed), seed=seed, until_s=300.0)
    sent = 0
    open_: list[tuple[float, int, Request]] = []
    while (due_s := traffic.next_s()) is not None or open_:
        if due_s is not None and (not open_ or due_s <= open_[0][0]):
            for request in traffic.take(due_s):
                sent += 1
                ends_s = due_s + UNLOADED_TTFT_S + UNLOADED_S_PER_TOKEN * request.output_tokens
                heapq.heappush(open_, (ends_s, sent, request))
        else:
            ends_s, _, request = heapq.heappop(open_)
            traffic.answered(request, ends_s)
    assert sent == pytest.approx(2.0 * 300.0, rel=0.1)
