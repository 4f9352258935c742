"""Targets as the command line names them."""

import pytest

from loadtests.lab.live.target import Target, TargetKind, parse
from loadtests.lab.source import LabError
from policies.registry import PolicyError


def test_targets_may_have_policies_and_parameters_with_commas_in_them() -> None:
    found = parse(
        'penstock, penstock:llm-d-token-aware:{"affinity":0.5,"load":"requests"},vllm-router,'
        "sglang-router:round_robin,envoy-least-request,mine=http://127.0.0.1:9/,https://gw.test"
    )
    assert [target.title for target in found] == [
        "penstock",
        'penstock llm-d-token-aware {"affinity":0.5,"load":"requests"}',
        "vllm-router",
        "sglang-router round_robin",
        "envoy-least-request",
        "mine",
        "https://gw.test",
    ]
    assert found[1].params == {"affinity": 0.5, "load": "requests"}
    assert [target.policy for target in found[2:5]] == ["cache_aware", "round_robin", ""]
    assert parse("mine=http://127.0.0.1:9/v1/")[0].url == "http://127.0.0.1:9"
    assert found[5] == Target(TargetKind.RUNNING, "mine", url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "none is named"),
        ("nginx", "target 'nginx': there are penstock, envoy-round-robin"),
        ("penstock,penstock", "given twice"),
        ("penstock,", "target ''"),
        ("vllm-router:best", "not among those it has here: cache_aware, round_robin"),
        ("sglang-router:consistent_hash", "not among those"),
        ("envoy-round-robin:random", "none, its name says it"),
        ("penstock:random:{", "parameters are not JSON"),
        ("x=http://", "a URL has a host"),
        ("running", "target 'running'"),
    ],
)
def test_mistakes_in_targets_are_told(text: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        parse(text)


def test_penstocks_policies_are_checked_before_anything_runs() -> None:
    with pytest.raises(PolicyError, match="unknown policy"):
        parse("penstock:best-of-all")
