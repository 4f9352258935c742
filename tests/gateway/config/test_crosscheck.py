"""Checks between the sections of the configuration."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from gateway.config.reading.load import load
from gateway.config.reading.problems import ConfigError

POOL = "{{name: {name}, type: simulated, model: {name}-model{more}}}"


def pool(name: str, more: str = "") -> str:
    return "  - " + POOL.format(name=name, more=f", {more}" if more else "")


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (f"pools:\n{pool('a')}\n{pool('a')}", "pools[1].name", "pools[0] has it already"),
        (
            f"pools:\n{pool('a', 'default: true')}\n{pool('b', 'default: true')}",
            "pools[1].default",
            "pools[0] (a) is it already",
        ),
        (f"pools:\n{pool('a', 'profile: defaul')}", "pools[0].profile", "did you mean default?"),
        ("scheduling: {default_profile: x}", "scheduling.default_profile", "one of default"),
        (
            "models: [{name: a, targets: [{model: x}]}, {name: a, targets: [{model: y}]}]",
            "models[1].name",
            "models[0] has it already",
        ),
        (
            "models: [{name: a, targets: [{model: b}]}, {name: b, targets: [{model: a}]}]",
            "models[0].targets[0].model",
            "rules are not followed twice",
        ),
        ("models: [{name: a, targets: []}]", "models[0].targets", "at least 1"),
        (
            "models: [{name: a, targets: [{model: x, weight: 0}]}]",
            "models[0].targets",
            "a weight above 0",
        ),
        ("models: [{name: a, targets: [{model: '*'}]}]", "models[0].targets[0].model", "a model"),
        (
            f"models: [{{name: a, targets: [{{model: x, pool: chta}}]}}]\npools:\n{pool('chat')}",
            "models[0].targets[0].pool",
            "did you mean chat?",
        ),
        ("admin: {port: 8080}", "admin.port", "listen.port has 127.0.0.1 port 8080"),
        ("listen: {address: 0.0.0.0, port: 8090}", "admin.port", "listen.port has 0.0.0.0"),
        (
            "picker: {health: {port: 9002}, ext_proc: {port: 9002}}",
            "picker.health.port",
            "picker.ext_proc.port has 127.0.0.1 port 9002",
        ),
        (
            "pools: [{name: a, type: process, replicas: 4, first_port: 8088, command: ['{port}']}]",
            "pools[0].first_port",
            "admin.port has 127.0.0.1 port 8090",
        ),
        (
            "pools: [{name: a, type: process, replicas: 9, first_port: 65530,command: ['{port}']}]",
            "pools[0].first_port",
            "at most 65527",
        ),
        (
            "picker: {scrape: {stale_after_s: 1}}",
            "picker.scrape.stale_after_s",
            "more than the time between two reads",
        ),
        (
            "scheduling: {profiles: {p: {policy: {name: x}, scorers: [{name: kv}]}}}",
            "scheduling.profiles.p",
            "either `policy` alone",
        ),
        (
            "pools: [{name: a, type: static, endpoints: [], tls: {}}]",
            "pools[0].tls.server_name",
            "verify: false switches the check off",
        ),
        ("scheduling: {profiles: {p: {}}}", "scheduling.profiles.p", "at least one scorer"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, text: str, key: str, says: str) -> None:
    path = tmp_path / "penstock.yaml"
    path.write_text(textwrap.dedent(text))
    with pytest.raises(ConfigError) as caught:
        load(path)
    found = {problem.key: str(problem) for problem in caught.value.problems}
    assert says in found[key]
    assert all(problem.line > 0 for problem in caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        # the same port on two addresses of this machine
        "listen: {address: 127.0.0.2, port: 8090}",
        # no Envoy: nobody listens on listen.port
        "envoy: {enabled: false}\nadmin: {port: 8080}",
        # a canary on a name that replicas serve themselves
        "models: [{name: q, targets: [{model: q, weight: 9}, {model: q2}]}]",
        # a generic rule beside others
        "models: [{name: '*', targets: [{model: q}]}, {name: a, targets: [{model: q}]}]",
        "pools: [{name: a, type: static, endpoints: []}]",
        "pools: [{name: a, type: process, command: [x], env: {PORT: '{port}'}}]",
    ],
)
def test_what_does_fit_together(tmp_path: Path, text: str) -> None:
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    load(path)
