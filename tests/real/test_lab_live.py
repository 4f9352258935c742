"""``penstock lab live`` over simulated replicas, through real gateways."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from typer.testing import CliRunner

from loadtests.bench import peers
from loadtests.lab.command import app

pytestmark = pytest.mark.envoy

REQUESTS, OUTPUT_TOKENS, SPAN_S = 60, 20, 1.0
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


def test_gateways_are_compared_on_equal_terms(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than unix sockets may be.
    (place := tmp_path / ("x" * 60)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
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
    for router in peers.ROUTERS:
        try:
            peers.install(router, print)
        except peers.PeerError as error:
            pytest.skip(str(error))
    targets = "vllm-router,sglang-router"
    result = compared(trace, targets, tmp_path / "out", "--warm-up", "0", "--cool-down", "0")
    assert [run["target"] for run in result["runs"]] == targets.split(",")
    for run in result["runs"]:
        check(run)


@dataclass(frozen=True)
class Lab:
    """A slow comparison in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def family(self, *, least: int, having: str = "") -> list[psutil.Process]:
        """All that it has started, once they are so many and one has such a command line."""
        deadline_s = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline_s
            found = psutil.Process(self.process.pid).children(recursive=True)
            if len(found) >= least and any(map(_has(having), found)):
                return found
            time.sleep(0.1)

    def ends(self) -> tuple[int, str]:
        """Exit code, and what it said."""
        return self.process.wait(40), self.log.read_text()


def _has(word: str) -> Callable[[psutil.Process], bool]:
    def has(process: psutil.Process) -> bool:
        try:
            return word in " ".join(process.cmdline())
        except psutil.Error:
            return False

    return has


def _hears_signals() -> None:
    """Also where the tests run in the background or under nohup, which tell not to hear these."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def files() -> Iterator[Path]:
    """Where the lab has its own: a short path, for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        yield Path(folder)


@pytest.fixture
def start(trace: Path, tmp_path: Path, files: Path) -> Iterator[Callable[..., Lab]]:
    running: list[Lab] = []

    def started(*words: str) -> Lab:
        command = [str(Path(sys.executable).parent / "penstock"), "lab", "live", *REPLICAS]
        command += ["--workload", f"trace:{trace}", "--seeds", "1", *words]
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(files)},
                preexec_fn=_hears_signals,
            )
        running.append(Lab(process, log))
        return running[-1]

    yield started
    for lab in running:
        lab.process.kill()
        lab.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_started_is_stopped_on_a_signal(
    start: Callable[..., Lab], files: Path, number: signal.Signals
) -> None:
    lab = start("--targets", "penstock", "--speed", "0.01", "--replicas", "2")
    # Two replicas, the supervisor, its picker and its Envoy.
    family = lab.family(least=5)
    assert list(files.iterdir()) != []
    lab.process.send_signal(number)
    code, said = lab.ends()
    assert (code, said) == (130, "stopped\n")
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert list(files.iterdir()) == []


def test_a_gateway_that_dies_in_a_run_is_left_out_and_the_others_are_compared(
    start: Callable[..., Lab], files: Path
) -> None:
    lab = start("--targets", "penstock,envoy-round-robin", "--speed", "0.25", "--replicas", "2")
    family = lab.family(least=5, having="gateway.run.worker")
    while not any(path.stat().st_size for path in files.glob("*/*/requests.jsonl")):
        assert lab.process.poll() is None, lab.log.read_text()
        time.sleep(0.1)
    next(filter(_has("gateway.cli"), family)).kill()
    code, said = lab.ends()
    assert code == 0
    assert "penstock is left out: penstock has ended with -9 in the middle of a run" in said
    assert "envoy-round-robin answers" in said
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_without_one_of_its_replicas_a_comparison_ends_at_once(start: Callable[..., Lab]) -> None:
    lab = start("--targets", "envoy-round-robin", "--speed", "0.01")
    family = lab.family(least=4, having="envoy.json")
    next(filter(_has("loadtests.sim"), family)).kill()
    code, said = lab.ends()
    assert code == 1
    assert said.startswith("replica 0 has ended with -9 in the middle of a run")
