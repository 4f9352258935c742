"""The default profile on a small fleet in virtual time, against a legacy blend and plain load."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from policies.routing.spec import PolicySpec
from policies.routing.weighted import DEFAULT_PROFILE
from tests.policies.routing.fleet import Fleet, Job, Result, conversations, single_prompts

LEGACY_BLEND = {
    "scorers": [
        {"name": "queue", "weight": 2},
        {"name": "kv", "weight": 2},
        {"name": "prefix", "weight": 3},
    ]
}
LEAST_REQUESTS = {"scorers": [{"name": "running"}]}
REPLICAS = 8

Workload = Callable[[], list[Job]]


def chat() -> list[Job]:
    return conversations(
        count=300, per_s=8, turns=5, shared=1_000, own=1_500, ask=50, answer=300, seed=1
    )


def code() -> list[Job]:
    return conversations(
        count=80, per_s=2, turns=6, shared=500, own=25_000, ask=1_500, answer=400, seed=1
    )


def many_shared_prefixes() -> list[Job]:
    systems = {f"system {n}": 6_000 for n in range(150)}
    return single_prompts(count=1_200, per_s=16, systems=systems, ask=1_200, answer=500, seed=1)


def one_shared_prefix() -> list[Job]:
    return single_prompts(
        count=1_000, per_s=40, systems={"system": 8_000}, ask=800, answer=300, seed=1
    )


def long_answers() -> list[Job]:
    return single_prompts(
        count=300, per_s=8, systems={"system": 250}, ask=1_000, answer=2_500, seed=1
    )


def run(profile: Mapping[str, object], workload: Workload) -> Result:
    policy = PolicySpec("weighted", profile).build()
    return Fleet(policy, replicas=REPLICAS, seed=1).run(workload(), until_s=600)


def test_a_burst_of_one_prompt_spreads() -> None:
    result = run(DEFAULT_PROFILE, lambda: [Job(0.0, (("same", 6_000),), 200) for _ in range(64)])
    served = result.by_slot[:REPLICAS]
    assert sum(served) == 64
    assert max(served) <= 12


def test_turns_of_a_conversation_stick() -> None:
    """Turn n finds all of turn n-1: of the tokens that some replica has cached few are missed."""
    result = run(DEFAULT_PROFILE, code)
    own, turns, growth = 25_500, 6, 1_900
    prompts = [own + 1_500 + growth * n for n in range(turns)]
    reusable = sum(prompts[:-1])
    assert result.hit_rate > 0.93 * reusable / sum(prompts)


@pytest.mark.parametrize(
    "workload", [chat, code, many_shared_prefixes, one_shared_prefix, long_answers]
)
def test_within_a_fifth_of_the_better_of_a_legacy_blend_and_the_least_requests(
    workload: Workload,
) -> None:
    ours = run(DEFAULT_PROFILE, workload)
    for other in (LEGACY_BLEND, LEAST_REQUESTS):
        theirs = run(other, workload)
        assert len(ours.latency_s) == len(theirs.latency_s)
        assert ours.mean_ttft_s <= 1.2 * theirs.mean_ttft_s
        assert np.mean(ours.latency_s) <= 1.05 * np.mean(theirs.latency_s)


@pytest.mark.parametrize("workload", [chat, code])
def test_conversations_gain_much_over_the_least_requests(workload: Workload) -> None:
    ours, theirs = run(DEFAULT_PROFILE, workload), run(LEAST_REQUESTS, workload)
    assert ours.mean_ttft_s < 0.4 * theirs.mean_ttft_s
    assert ours.hit_rate > 1.5 * theirs.hit_rate
