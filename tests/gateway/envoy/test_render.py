"""Whole configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.envoy.rendering import Rendered, validate

pytestmark = pytest.mark.envoy

EXAMPLES = sorted((Path(__file__).parents[3] / "deploy" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example(example: Path, rendered: Rendered) -> None:
    assert "OK" in validate(rendered(example.read_text()))


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


def test_without_a_picker_a_clients_key_does_not_reach_replicas_with_one(
    rendered: Rendered,
) -> None:
    """And the key itself stands nowhere in Envoy's configuration."""
    file = rendered(
        """
        picker: {failure_mode: open}
        pools:
          - {name: a, type: process, command: [vllm, --port, "{port}", --api-key, sk-replicas]}
        """
    )
    validate(file)
    text = file.read_text()
    assert "sk-replicas" not in text
    assert '"request_headers_to_remove":["authorization","x-api-key"' in "".join(text.split())


def test_times_of_the_queue_change_no_listener(rendered: Rendered) -> None:
    """A new listener serves new connections only: on others Envoy would not wait for longer."""
    short, long = (rendered(f"flow: {{ttl_s: {ttl_s}}}").read_text() for ttl_s in (5, 50))
    assert short == long
