"""Targets, and what their gateways are started with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadtests.lab.live.gateways import envoy_configuration, penstock_configuration, router_command
from loadtests.lab.live.replicas import addresses
from loadtests.lab.live.target import Target, TargetKind, parse
from loadtests.lab.source import LabError
from policies.registry import PolicyError

REPLICAS = ("10.0.0.1:8000", "10.0.0.2:8001")


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


def test_penstock_gets_a_static_pool_and_the_policy(tmp_path: Path) -> None:
    plain, chosen = parse('penstock,penstock:llm-d-token-aware:{"affinity":0.5}')
    whole: Mapping[str, Any] = penstock_configuration(plain, REPLICAS, 1, 2, tmp_path)
    assert whole["pools"][0]["endpoints"] == list(REPLICAS)
    assert "scheduling" not in whole
    with_policy: Mapping[str, Any] = penstock_configuration(chosen, REPLICAS, 1, 2, tmp_path)
    assert with_policy["scheduling"]["profiles"]["lab"]["policy"] == {
        "name": "llm-d-token-aware",
        "params": {"affinity": 0.5},
    }


@pytest.mark.parametrize(
    ("name", "policy"),
    [("envoy-round-robin", "ROUND_ROBIN"), ("envoy-least-request", "LEAST_REQUEST")],
)
def test_envoy_alone_has_the_replicas_and_its_own_policy(name: str, policy: str) -> None:
    [target] = parse(name)
    whole: Any = orjson.loads(orjson.dumps(envoy_configuration(target, REPLICAS, 1234)))
    [cluster] = whole["static_resources"]["clusters"]
    assert (cluster["lb_policy"], cluster["type"]) == (policy, "STATIC")
    members = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert [member["endpoint"]["address"]["socket_address"] for member in members] == [
        {"address": "10.0.0.1", "port_value": 8000},
        {"address": "10.0.0.2", "port_value": 8001},
    ]
    named: Any = envoy_configuration(target, ["vllm.internal:8000"], 1234)
    assert named["static_resources"]["clusters"][0]["type"] == "STRICT_DNS"


def test_routers_are_told_of_the_replicas_the_policy_and_free_ports() -> None:
    for target in parse("vllm-router:power_of_two,sglang-router"):
        command = router_command(target, REPLICAS, 1234, 1235)
        words = " ".join(command)
        assert f"--policy {target.policy}" in words
        assert "--port 1234" in words
        assert "--prometheus-port 1235" in words
        assert words.endswith("--worker-urls http://10.0.0.1:8000 http://10.0.0.2:8001")


def test_replicas_that_run_are_named_by_address() -> None:
    assert addresses("http://127.0.0.1:8000/, b:9") == ("127.0.0.1:8000", "b:9")
    for wrong in ("", "localhost", "http://a:1/v1", "a:1,a:1"):
        with pytest.raises(LabError, match="--replica"):
            addresses(wrong)
