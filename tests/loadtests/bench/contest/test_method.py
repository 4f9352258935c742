"""The method that compares gateways, in little, on Envoy alone."""

from math import isnan

import pytest

from loadtests.bench.contest.contenders import ENVOY, Command, Contender, penstock_part
from loadtests.bench.contest.method import Method
from loadtests.bench.figures import gateways
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.peers import Peer

LITTLE = Method(
    alone=5,
    first_bytes=3,
    connections=(1, 32),
    step_s=0.2,
    paced=4,
    paced_tokens=5,
    held=8,
    held_tokens=2,
)


def test_a_gateway_that_cannot_be_had_has_a_row_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_PEERS", "/dev/null/none")
    peer = Contender("LiteLLM", lambda _: Command([]), Peer.LITELLM)
    broken = Contender("Broken", lambda _: Command(["sh", "-c", "echo no such option >&2; exit 3"]))
    rows = gateways.among((peer, broken, ENVOY), LITTLE, Effort(quick=True, say=lambda _: None))
    missing = {row.subject: row.how for row in rows if row.figure == "not measured"}
    assert missing.keys() == {"LiteLLM", "Broken"}
    assert "cannot be installed" in missing["LiteLLM"]
    assert "no such option" in missing["Broken"]
    assert {row.subject for row in rows if "concurrency 32" in row.figure} == {
        "Envoy alone",
        "no gateway",
    }
    found = {row.figure: row.value for row in rows if row.subject == "Envoy alone"}
    assert not [figure for figure, value in found.items() if isnan(value)]
    # The upstream's 20 ms are not the gateway's, and all of them are waited for.
    assert found["added latency p50, concurrency 1"] < 20
    assert found["latency p99, concurrency 1"] > 20
    assert 10 < found["requests per second, concurrency 1"] < 50
    assert found["requests per second, concurrency 32"] > 60
    assert found["streams held of 8"] == 8
    assert found["events lost or changed in them"] == 0
    assert found["CPU per request, all processes"] > 0
    assert "CPU per token, all processes" in found  # of few tokens it is noise
    assert found["memory, idle"] > 1


def test_processes_of_penstock_have_names() -> None:
    assert penstock_part(["python", "-m", "gateway.run.worker", "--index", "1"]) == "picker"
    assert penstock_part(["/somewhere/bin/envoy", "-c", "envoy.yaml"]) == "Envoy"
    assert penstock_part(["python", "-m", "gateway.cli", "up"]) == "the rest"
    assert penstock_part([]) == "the rest"
