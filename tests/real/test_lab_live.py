"""``penstock lab live`` over simulated replicas, through real gateways."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from typer.testing import CliRunner

from loadtests.lab.command import app
from loadtests.lab.live import peers
from loadtests.lab.live.target import Kind

pytestmark = pytest.mark.envoy

REQUESTS, OUTPUT_TOKENS, SPAN_S = 60, 20, 2.0
REPLICAS = ("--profile", "constant-step", "--replicas", "3")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Requests in Mooncake's form: ten prompts of three blocks, two of which all share."""
    path = tmp_path / "trace.jsonl"
    rows = [
        {
            "timestamp": int(at * SPAN_S * 1000 / REQUESTS),
            "input_length": 1_500,
            "output_length": OUTPUT_TOKENS,
            "hash_ids": [1, 2, 3 + at % 10],
        }
        for at in range(REQUESTS)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def compared(trace: Path, targets: str, out: Path, *words: str) -> dict[str, Any]:
    """The result of a comparison, which left a whole report."""
    command = ["live", "--workload", f"trace:{trace}", "--targets", targets, *REPLICAS]
    done = CliRunner().invoke(app, [*command, "--seeds", "1", "--out", str(out), *words])
    assert done.exit_code == 0, done.stderr
    assert (out / "index.html").stat().st_size > 10_000
    assert {path.stem for path in (out / "plots").iterdir()} >= {"ttft", "tpot", "timelines"}
    for title in targets.split(","):
        assert title in done.stdout
    result: dict[str, Any] = orjson.loads((out / "result.json").read_bytes())
    return result


def check(run: dict[str, Any]) -> None:
    """Everything was answered, and client and replicas have counted the same."""
    assert (run["whole"]["requests"], run["whole"]["failed"], run["errors"]) == (REQUESTS, 0, {})
    assert run["caches_emptied"]
    steady, replicas = run["steady"], run["by_replica"]
    assert steady["requests"] == REQUESTS
    assert sum(each["finished"] for each in replicas) == REQUESTS
    generated = sum(each["generation_tokens"] for each in replicas)
    assert generated == REQUESTS * OUTPUT_TOKENS == run["tokens"]["output"]
    assert sum(each["prompt_tokens"] for each in replicas) == run["tokens"]["input"]
    assert sum(each["cached_tokens"] for each in replicas) == run["tokens"]["cached"] > 0
    assert steady["hit_rate"] == pytest.approx(run["whole"]["replicas_hit_rate"])
    # 20 steps of the profile are the least that an answer can take.
    assert steady["ttft_p50_s"] > 0
    assert steady["latency_p50_s"] > steady["ttft_p50_s"]


def test_gateways_are_compared_on_equal_terms(trace: Path, tmp_path: Path) -> None:
    targets = "penstock,envoy-round-robin,envoy-least-request"
    # Without a cut, so that figures are of all requests, as the replicas' counters are.
    result = compared(trace, targets, tmp_path / "out", "--warm-up", "0", "--cool-down", "0")
    assert [run["target"] for run in result["runs"]] == targets.split(",")
    assert sorted(run["place"] for run in result["runs"]) == [0, 1, 2]
    for run in result["runs"]:
        check(run)
    by_target = {run["target"]: run for run in result["runs"]}
    turns = by_target["envoy-round-robin"]["by_replica"]
    # Each of Envoy's threads, one a core, takes turns by itself.
    assert [each["finished"] for each in turns] == pytest.approx(
        [REQUESTS / 3] * 3, abs=os.cpu_count() or 1
    )


def test_routers_of_others_are_compared_too(trace: Path, tmp_path: Path) -> None:
    for kind in (Kind.VLLM_ROUTER, Kind.SGLANG_ROUTER):
        try:
            peers.install(kind, print)
        except peers.PeerError as error:
            pytest.skip(str(error))
    targets = "vllm-router,sglang-router"
    result = compared(trace, targets, tmp_path / "out", "--warm-up", "0", "--cool-down", "0")
    assert [run["target"] for run in result["runs"]] == targets.split(",")
    for run in result["runs"]:
        check(run)


def test_what_was_started_is_stopped_on_ctrl_c(trace: Path, tmp_path: Path) -> None:
    penstock = Path(sys.executable).parent / "penstock"
    command = [str(penstock), "lab", "live", "--workload", f"trace:{trace}", "--speed", "0.01"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--targets", "penstock", *REPLICAS], stderr=log)
    family: list[psutil.Process] = []
    try:
        deadline_s = time.monotonic() + 60
        # Three replicas, the supervisor, its picker and its Envoy.
        while len(family) < 6:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline_s, family
            family = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
    finally:
        process.kill()
    assert "stopped" in (tmp_path / "log").read_text()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
