"""No two parts may listen on the same port."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_refused, loaded


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
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
    ],
)
def test_a_port_that_two_parts_have(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)


@pytest.mark.parametrize(
    "text",
    [
        # the same port on two addresses of this machine
        "listen: {address: 127.0.0.2, port: 8090}",
        # no Envoy: nobody listens on listen.port
        "envoy: {enabled: false}\nadmin: {port: 8080}",
    ],
)
def test_ports_that_do_not_clash(tmp_path: Path, text: str) -> None:
    loaded(tmp_path, text)
