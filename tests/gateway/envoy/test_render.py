"""Envoy itself judges what is rendered."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.certificates import write_self_signed
from gateway.config.schema import EnvoyProxy
from gateway.envoy.proxy import binary
from tests.gateway.envoy.command import penstock

pytestmark = pytest.mark.envoy

EXAMPLES = sorted((Path(__file__).parents[3] / "deploy" / "examples").glob("*.yaml"))

Rendered = Callable[[str], Path]


def validate(file: Path) -> str:
    """What ``envoy --mode validate`` says; AssertionError when it refuses."""
    command = [str(binary(EnvoyProxy())), "--mode", "validate", "-c", str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.fixture
def rendered(tmp_path: Path) -> Rendered:
    """Write a configuration and return the file of the Envoy configuration it leads to."""

    def render(text: str) -> Path:
        source, target = tmp_path / "penstock.yaml", tmp_path / "envoy.json"
        source.write_text(textwrap.dedent(text))
        told = penstock("envoy", "config", "--with-secrets", "-c", str(source))
        assert told.returncode == 0, told.stderr
        target.write_text(told.stdout)
        return target

    return render


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A certificate and its key."""
    path = tmp_path / "both.pem"
    write_self_signed(path)
    return path


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example(example: Path, rendered: Rendered) -> None:
    assert "OK" in validate(rendered(example.read_text()))


def test_tls_on_both_sides(rendered: Rendered, pem: Path) -> None:
    file = rendered(
        f"""
        listen: {{tls: {{certificate: {{file: {pem}}}, key: {{file: {pem}}}}}}}
        pools:
          - name: system
            type: static
            endpoints: ["10.0.0.1:443"]
            tls: {{server_name: llm.example.com}}
          - name: own
            type: static
            endpoints: ["10.0.0.2:443"]
            tls: {{ca: {{file: {pem}}}, server_name: vllm.internal}}
          - {{name: any, type: static, endpoints: ["10.0.0.3:443"], tls: {{verify: false}}}}
        """
    )
    validate(file)
    assert "vllm.internal" in file.read_text()


def test_a_private_key_is_not_printed_unasked(pem: Path, tmp_path: Path) -> None:
    source = tmp_path / "penstock.yaml"
    source.write_text(
        f"listen: {{tls: {{certificate: {{file: {pem}}}, key: {{file: {pem}}}}}}}\n"
        "pools: [{name: a, type: static, endpoints: ['10.0.0.1:443'],"
        f" tls: {{ca: {{file: {pem}}}, server_name: a.internal}}}}]\n"
    )
    shown = penstock("envoy", "config", "-c", str(source)).stdout
    assert "PRIVATE KEY" not in shown
    assert "BEGIN CERTIFICATE" not in shown
    assert f"<from file:{pem}>" in shown
    real = penstock("envoy", "config", "--with-secrets", "-c", str(source)).stdout
    assert "PRIVATE KEY" in real


def test_a_name_is_what_the_certificate_must_say(rendered: Rendered, pem: Path) -> None:
    """A certificate of the same authority for another host is not enough."""
    file = rendered(
        f"""
        pools:
          - name: own
            type: static
            endpoints: ["10.0.0.2:443"]
            tls: {{ca: {{file: {pem}}}, server_name: vllm.internal}}
        """
    )
    pool = json.loads(file.read_text())["static_resources"]["clusters"][1]
    context = pool["transport_socket"]["typed_config"]["common_tls_context"]
    (name,) = context["validation_context"]["match_typed_subject_alt_names"]
    assert name["matcher"]["exact"] == "vllm.internal"


def test_ipv6(rendered: Rendered) -> None:
    file = rendered(
        """
        listen: {address: "::1"}
        pools:
          - {name: chat, type: static, endpoints: ["[::1]:8000", "[2001:db8::2]:8000"]}
        """
    )
    validate(file)
    assert '"2001:db8::2"' in file.read_text()


@pytest.mark.parametrize("mode", ["open", "closed"])
def test_limits_at_their_ends(rendered: Rendered, mode: str) -> None:
    validate(
        rendered(
            f"""
            listen: {{max_body_bytes: 1073741824, stream_idle_timeout_s: 0.5}}
            picker: {{workers: 64, failure_mode: {mode}, decision_timeout_s: 0.001}}
            scheduling: {{fallbacks: 0}}
            """
        )
    )


def test_no_pool_at_all(rendered: Rendered) -> None:
    validate(rendered(""))
