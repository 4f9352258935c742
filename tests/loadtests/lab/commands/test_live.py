"""``penstock lab live`` as far as it goes without a gateway."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtests.bench.peers import ENVIRONMENT_VARIABLE
from loadtests.lab.command import app

WORDS = ("--workload", "fixed-corpus-saas", "--rate", "1", "--profile", "constant-step")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--targets", "nginx"], "target 'nginx': there are penstock"),
        (["--targets", "penstock:nothing"], "unknown policy 'nothing'"),
        (["--targets", "penstock", "--replica", "a:1", "--time-scale", "2"], "--time-scale is of"),
        (["--targets", "penstock", "--replica", "here"], "--replica: 'here' is not as"),
        (["--targets", "x=http://127.0.0.1:9", "--replica", "127.0.0.1:9"], "replica 127.0.0.1:9:"),
        (["--targets", "penstock", "--profile", "nothing"], "profile 'nothing': not among"),
    ],
)
def test_mistakes_are_told_in_a_line(words: Sequence[str], says: str) -> None:
    result = CliRunner().invoke(app, ["live", *WORDS, *words])
    assert result.exit_code == 1
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs() -> None:
    words = ["--targets", "penstock", "--replica", "127.0.0.1:9", "--out", "/proc"]
    result = CliRunner().invoke(app, ["live", *WORDS, *words])
    assert result.exit_code == 1
    assert result.stderr.startswith("--out /proc: ")


def test_a_router_that_cannot_be_installed_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "file"))
    result = CliRunner().invoke(app, ["live", *WORDS, "--targets", "vllm-router"])
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "vllm-router is left out: vllm-router==0.1.17 cannot be installed into" in said
    assert said.endswith("no target is left to compare")
