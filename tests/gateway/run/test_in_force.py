"""The configuration in force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.config import Config
from gateway.config.reading.problems import ConfigError, Problem
from gateway.run.in_force import ConfigInForce


def config_of(**sections: object) -> Config:
    return Config.model_validate_json(json.dumps(sections))


def test_a_picker_works_by_the_latest_version_or_the_one_before() -> None:
    in_force = ConfigInForce(config_of())
    in_force.assigned(1)
    assert (in_force.version_at(0), in_force.version_at(1), in_force.version_at(4)) == (0, 1, 1)
    in_force.assigned(5)
    assert (in_force.version_at(0), in_force.version_at(4), in_force.version_at(5)) == (0, 1, 2)


def test_a_refused_change_is_kept_until_one_is_accepted() -> None:
    in_force = ConfigInForce(config_of())
    file = Path("penstock.yaml")
    problem = Problem(file, 1, 1, "listen.port", "x", "a number")
    in_force.refuse(ConfigError([problem], files=frozenset({file})))
    assert in_force.refused is not None
    assert in_force.refused_s >= in_force.accepted_s
    accepted = config_of(listen={"port": 9})
    in_force.accept(accepted)
    assert in_force.refused is None
    assert in_force.config is accepted


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"listen": {"port": 9}}, []),
        ({"envoy": {"concurrency": 3}}, ["envoy"]),
        ({"run_dir": "/elsewhere"}, ["run_dir"]),
        ({"admin": {"port": 9}}, ["admin's address"]),
        ({"admin": {"token": {"env": "TOKEN"}}}, []),
        ({"picker": {"health": {"port": 9}}}, ["a picker port"]),
        ({"picker": {"ext_proc": {"port": 9}}}, ["a picker port"]),
        ({"picker": {"ext_proc": {"fallbacks": 2}}}, []),
        ({"picker": {"workers": 2}}, []),
    ],
)
def test_what_takes_a_restart(changed: dict[str, object], parts: list[str]) -> None:
    assert list(ConfigInForce(config_of()).needs_restart(config_of(**changed))) == parts
