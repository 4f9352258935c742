"""What gateways are started with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadtests.lab.live.gateways import envoy_configuration, penstock_configuration, router_command
from loadtests.lab.live.target import parse

REPLICAS = ("10.0.0.1:8000", "10.0.0.2:8001")


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
        command = router_command(target, REPLICAS, 1234)
        words = " ".join(command)
        assert f"--policy {target.policy}" in words
        assert "--port 1234" in words
        metrics_port = int(command[command.index("--prometheus-port") + 1])
        assert metrics_port not in {1234, 0}
        assert words.endswith("--worker-urls http://10.0.0.1:8000 http://10.0.0.2:8001")
