"""The command ``penstock lab``, as a person uses it."""

import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from loadtests.lab import page, report
from loadtests.lab.command import app
from loadtests.lab.sweep import sweep
from loadtests.sim.model.profile import write_profile
from tests.loadtests.lab.conftest import PROFILE, Make

_OF_OTHER_RUNS = ("tokens_max_over_mean", "gateway_cpu_ms", "ttft_error", "tpot_error")
"""Figures of live runs, and of policies that predict."""
PLOTS = ["cache-and-balance", "goodput", "timelines", "tokens", "tpot", "ttft"]


@dataclass
class Said:
    code: int
    out: str
    err: str


class Lab:
    """The command with a profile of the tests' own."""

    def __init__(self, folder: Path) -> None:
        self.profile = folder / "profile.yaml"
        write_profile(PROFILE, self.profile)

    def __call__(self, command: str, *words: str) -> Said:
        profile = ["--profile", str(self.profile)] if command in ("sim", "size") else []
        result = CliRunner().invoke(app, [command, *profile, *words])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return Said(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


SMALL = ("--workload", "fixed-corpus-saas", "--requests", "40", "--replicas", "3", "--seeds", "2")
TWO = ("--policies", "round-robin,llm-d-token-aware", "--rate", "5,10", "--jobs", "1")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.outside: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [
            value or ""
            for name, value in attrs
            if name in ("src", "href") and not (value or "").startswith(("#", "data:"))
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_comparison_leaves_a_report(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    said = lab("sim", *SMALL, *TWO, "--out", str(out))
    assert said.code == 0, said.err
    assert "answers the most requests within the SLO" in said.out
    result = orjson.loads((out / "result.json").read_bytes())
    assert [run["seed"] for run in result["runs"]] == [1, 2] * 4
    assert result["settings"]["policies"][1]["name"] == "llm-d-token-aware"
    assert sorted(path.stem for path in (out / "plots").iterdir()) == PLOTS
    for path in (out / "plots").iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    read = _Page()
    read.feed((out / "index.html").read_text(encoding="utf-8"))
    assert read.tags.count("svg") == len(PLOTS)
    assert read.outside == []
    assert result["verdicts"][0]["words"][0] in read.text


def test_the_same_command_writes_the_same_report(lab: Lab, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert lab("sim", *SMALL, *TWO, "--out", str(tmp_path / name)).code == 0
    files = sorted(
        path.relative_to(tmp_path / "one")
        for path in (tmp_path / "one").rglob("*")
        if path.is_file()
    )
    assert len(files) == 2 + len(PLOTS)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_one_load_of_a_ramp_or_one_policy_make_a_report_too(lab: Lab, tmp_path: Path) -> None:
    words = ("--policies", "round-robin", "--out", str(tmp_path / "out"), "--jobs", "1")
    assert lab("sim", *SMALL, *words).code == 0
    assert lab("sim", *SMALL, *words, "--rate", "5", "--replicas", "1,2").code == 0
    assert (tmp_path / "out" / "plots" / "ttft-1.svg").exists()


def test_a_fleet_is_sized(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "size.json"
    words = ("--policy", "least-requests", "--rate", "6", "--requests", "150", "--seeds", "2")
    said = lab("size", "--workload", "fixed-corpus-saas", *words, "--out", str(out), "--jobs", "1")
    assert said.code == 0, said.err
    result = orjson.loads(out.read_bytes())
    trials = {trial["replicas"]: trial["met"] for trial in result["trials"]}
    assert trials[result["replicas"]]
    assert not trials.get(result["replicas"] - 1, False)
    assert f"{result['replicas']} replica" in said.out


def test_a_slo_out_of_reach_is_a_failure(lab: Lab) -> None:
    words = ("--policy", "random", "--rate", "2", "--requests", "20", "--seeds", "1", "--most", "4")
    said = lab("size", "--workload", "fixed-corpus-saas", *words, "--slo-ttft", "0.0001")
    assert said.code == 1
    assert "Not even 4 replicas" in said.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--workload", "nothing"], "workload 'nothing': not in the catalogue, which has"),
        (["--workload", "trace:gone.jsonl"], "the trace gone.jsonl cannot be read"),
        (["--workload", "trace:gone.txt"], "a trace is Mooncake's .jsonl or Azure's .csv"),
        (["--policies", ""], "name at least one policy"),
        (["--policies", "nothing"], "unknown policy 'nothing': use one of"),
        (["--policies", 'random:{"a":1}'], "unknown parameter 'a'"),
        (["--rate", "5", "--concurrency", "5"], "exclude each other"),
        (["--speed", "2"], "--speed is of a trace"),
        (["--rate", "fast"], "--rate: 'fast' is neither a number"),
        (["--replicas", "none"], "--replicas: 'none' is neither"),
        (["--warm-up", "1"], "warm_up is a share"),
        (["--duration", "5"], "a ramp has its own stages"),
        (["--profile", "nothing"], "profile 'nothing': not among the built-in ones"),
        (["--rate", "0.001", "--duration", "1"], "no request was sent"),
    ],
)
def test_mistakes_are_told_in_a_line(lab: Lab, words: Sequence[str], says: str) -> None:
    said = lab("sim", *SMALL, "--policies", "random", "--jobs", "1", *words)
    assert said.code == 1
    assert says in said.err
    assert len(said.err.splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_told_before_anything_runs(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    said = lab("sim", *SMALL, *TWO, "--out", str(tmp_path / "file"))
    assert said.code == 1
    assert "--out" in said.err


@pytest.mark.parametrize("command", ["size", "parity"])
def test_a_file_that_cannot_be_written_is_told_before_anything_runs(
    lab: Lab, tmp_path: Path, command: str
) -> None:
    out = str(tmp_path / "none" / "out.json")
    words = {
        "size": ("--workload", "interactive-chat", "--policy", "random", "--rate", "1e6", "--out"),
        "parity": (
            "--real", "http://127.0.0.1:9", "--max-num-seqs", "1", "--max-num-batched-tokens",
            "16", "--json",
        ),
    }  # fmt: skip
    said = lab(command, *words[command], out)
    assert said.code == 1
    assert f"{out}: No such file or directory" in said.err


def test_there_are_lists_of_what_there_is(lab: Lab) -> None:
    assert "fixed-corpus-saas" in lab("workloads").out
    assert "round-robin         │ Each candidate in turn, by slot" in lab("policies").out
    assert "Qwen/Qwen3-32B" in lab("profiles").out


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_is_whole_on_any_terminal(make: Make, width: int) -> None:
    experiment = make(names='weighted,random,cache-aware:{"balance_abs":3}', rates=(8.0,))
    console = Console(width=width, file=io.StringIO())
    with console.capture() as said:
        report.show(console, experiment, sweep(experiment))
    lines = said.get().splitlines()
    assert max(map(len, lines)) <= width
    table = "\n".join(line for line in lines if "│" in line or "┃" in line)
    assert "…" not in table
    for text in ("TTFT", "p99 ms", "tok/s", "preempted", "weighted", "random", "cache-aware"):
        assert text in table
    words = set(table.split())
    for column in page.COLUMNS:
        if column.figure not in _OF_OTHER_RUNS:
            assert words.issuperset(column.head.split()), column.head


def test_a_client_has_some_patience(lab: Lab) -> None:
    said = lab("sim", *SMALL, "--policies", "random", "--client-timeout", "-1")
    assert said.code == 2
    assert "--client-timeout" in said.err


def test_the_lab_is_a_command_of_penstock() -> None:
    penstock = Path(sys.executable).parent / "penstock"
    done = subprocess.run([penstock, "lab", "policies"], capture_output=True, text=True, check=True)
    assert "round-robin" in done.stdout.split()
