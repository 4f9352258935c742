"""TLS on both sides of Envoy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.run.certificates import write_self_signed
from tests.gateway.envoy.command import penstock
from tests.gateway.envoy.rendering import Rendered, validate

pytestmark = pytest.mark.envoy


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A certificate and its key."""
    path = tmp_path / "both.pem"
    write_self_signed(path)
    return path


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


def test_a_certificate_is_shown_to_replicas_that_ask_for_one(rendered: Rendered, pem: Path) -> None:
    file = rendered(
        f"""
        pools:
          - name: own
            type: static
            endpoints: ["10.0.0.2:443"]
            tls:
              server_name: vllm.internal
              certificate: {{file: {pem}}}
              key: {{file: {pem}}}
        """
    )
    validate(file)
    pool = json.loads(file.read_text())["static_resources"]["clusters"][1]
    context = pool["transport_socket"]["typed_config"]["common_tls_context"]
    assert context["tls_certificates"][0].keys() == {"certificate_chain", "private_key"}
