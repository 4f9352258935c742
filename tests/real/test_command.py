"""The command line: exit codes and what a person reads."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.real.ports import free_port

GOOD = "pools:\n  - {name: chat, type: static, endpoints: ['10.0.0.1:8000']}\n"
BROKEN = """\
listen: {port: "8080"}
pools:
  - name: chat
    type: static
    endpoint: ["10.0.0.1:8000"]
  - {name: chat, type: simulated, replicas: -1}
models:
  - {name: alias, targets: [{model: m, pool: none}]}
"""


def penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [str(Path(sys.executable).parent / "penstock"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("way", ["--version", "version"])
def test_the_version(way: str) -> None:
    told = penstock(way)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == f"penstock {version('penstock')}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "penstock.yaml"


def test_a_good_file(file: Path) -> None:
    file.write_text(GOOD)
    told = penstock("config", "check", str(file))
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == f"{file}: good, 1 pool\n"


@pytest.mark.parametrize("command", [("config", "check"), ("up", "-c"), ("envoy", "config", "-c")])
def test_a_broken_file_names_every_problem(file: Path, command: tuple[str, ...]) -> None:
    file.write_text(BROKEN)
    told = penstock(*command, str(file))
    assert (told.returncode, told.stdout) == (1, "")
    for place in (
        f"{file}:1:16: listen.port",
        f"{file}:5:5: pools[0].endpoint",
        "pools[0].endpoints",
        f"{file}:6:45: pools[1].replicas",
    ):
        assert place in told.stderr
    for word in ("got", "expected", "problems"):
        assert word in told.stderr
    assert "Traceback" not in told.stderr


def test_references_between_sections_are_checked(file: Path) -> None:
    file.write_text(GOOD + "models:\n  - {name: alias, targets: [{model: m, pool: none}]}\n")
    told = penstock("config", "check", str(file))
    assert told.returncode == 1
    assert f"{file}:4" in told.stderr
    assert "models[0].targets[0].pool" in told.stderr


def test_a_policy_that_does_not_exist(file: Path) -> None:
    file.write_text(GOOD + "scheduling: {profiles: {default: {scorers: [{name: quue}]}}}\n")
    told = penstock("config", "check", str(file))
    assert told.returncode == 1
    assert "quue" in told.stderr
    assert "queue" in told.stderr


@pytest.mark.parametrize("command", [("config", "check"), ("up", "-c")])
def test_no_such_file(file: Path, command: tuple[str, ...]) -> None:
    told = penstock(*command, str(file))
    assert (told.returncode, told.stdout) == (1, "")
    assert str(file) in told.stderr
    assert "Traceback" not in told.stderr


def test_a_run_dir_that_cannot_be_used(file: Path) -> None:
    listen, admin = free_port(), free_port()
    file.write_text(
        GOOD + f"run_dir: /tmp/{'x' * 120}\nlisten: {{port: {listen}}}\nadmin: {{port: {admin}}}\n"
    )
    told = penstock("up", "-c", str(file))
    assert told.returncode == 1
    assert "too long for unix sockets" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_schema_is_json() -> None:
    told = penstock("config", "schema")
    assert told.returncode == 0
    assert "pools" in json.loads(told.stdout)["properties"]


def test_a_wrong_command() -> None:
    told = penstock("upp")
    assert told.returncode == 2
    assert "No such command" in told.stderr
