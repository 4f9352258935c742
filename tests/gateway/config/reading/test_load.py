"""From a file to its values."""

from __future__ import annotations

from pathlib import Path

from gateway.config.config import Config
from gateway.config.reading.load import load
from gateway.config.schema.pools import ProcessPool, SimulatedPool, StaticPool
from tests.gateway.config.texts import loaded, only, written


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    for text in ("", "# nothing\n"):
        path = written(tmp_path, text)
        assert load(path) == Config(state_dir=path.parent / "penstock-state")


def test_the_state_is_beside_the_file_or_where_it_says(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    assert load(path).state_file == path.parent / "penstock-state" / "penstock.db"
    path = written(tmp_path, "state_dir: there")
    assert load(path).state_file == path.parent / "there" / "penstock.db"


def test_values_arrive(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
            listen: {address: 0.0.0.0, port: 80}
            picker: {ext_proc: {port: 9002, tls: off}}
            scheduling: {profiles: {fast: {scorers: [{name: queue}]}}}
            pools:
              - {name: a, type: static, endpoints: ["10.0.0.1:80", "[::1]:81", host:82]}
              - {name: b, type: simulated, replicas: 2, model: m, profile: fast}
              - {name: c, type: process, command: [x, "{port}"], cwd: sub}
            telemetry: {request_log: {file: log.jsonl}}
            """,
    )
    a, b, c = config.pools
    assert isinstance(a, StaticPool)
    assert a.endpoints == ("10.0.0.1:80", "[::1]:81", "host:82")
    assert isinstance(b, SimulatedPool)
    assert config.profile_of(b).scorers[0].name == "queue"
    assert config.profile_of(a) == config.scheduling.profiles["auto"]
    assert isinstance(c, ProcessPool)
    assert c.cwd is not None
    assert c.cwd.is_absolute()  # relative to the file
    assert config.picker.ext_proc.tls == "off"


def test_a_missing_file_is_a_problem_too(tmp_path: Path) -> None:
    problem = only(tmp_path / "none.yaml")
    assert problem.got == "No such file or directory"
    assert problem.place == str(tmp_path / "none.yaml")


def test_bytes_that_are_not_text_are_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "penstock.yaml"
    path.write_bytes(b"listen: \xff")
    assert only(path).got == "bytes that are not UTF-8, at offset 8"
