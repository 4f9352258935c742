"""What requests to replicas carry."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.schema.pools import ProcessPool
from gateway.config.schema.upstream import without_key
from tests.gateway.config.texts import PRIVATE, assert_refused, loaded

STATIC = "pools: [{{name: a, type: static, endpoints: ['h:1'], upstream: {}}}]"
SECRETS = {"KEY": PRIVATE, "TWO": "two"}


def test_a_key_a_host_and_headers(tmp_path: Path) -> None:
    upstream = (
        "{api_key: {env: KEY}, host: llm.internal:8443, headers: {X-Team: a, cookie: {env: TWO}}}"
    )
    (pool,) = loaded(tmp_path, STATIC.format(upstream), SECRETS).pools
    assert dict(pool.upstream_headers) == {
        "authorization": f"Bearer {PRIVATE}",
        "host": "llm.internal:8443",
        "x-team": "a",
        "cookie": "two",
    }
    assert PRIVATE not in repr(pool)


@pytest.mark.parametrize(
    ("upstream", "key", "says"),
    [
        ("{api_key: sk-1}", "api_key", "{env: NAME}"),
        ("{host: 'http://x'}", "host", "a host name"),
        ("{headers: {host: x}}", "headers.host", "upstream.host"),
        ("{headers: {content-length: '1'}}", "headers.content-length", "the connection's own"),
        ("{headers: {x-envoy-retry-on: '1'}}", "headers.x-envoy-retry-on", "the connection's own"),
        ("{headers: {'x y': '1'}}", "headers.x y", "the name of an HTTP header"),
        (f"{{headers: {{authorization: {PRIVATE}}}}}", "headers.authorization", "{env: NAME}"),
        (f"{{headers: {{x-api-key: {PRIVATE}}}}}", "headers.x-api-key", "{env: NAME}"),
        ('{headers: {x-a: "a\\r\\nb: c"}}', "headers.x-a", "on one line"),
        ("{headers: {x-a: ''}}", "headers.x-a", "on one line"),
    ],
)
def test_what_is_refused(upstream: str, key: str, says: str, tmp_path: Path) -> None:
    assert_refused(tmp_path, STATIC.format(upstream), f"pools[0].upstream.{key}", says)


PROCESS = "pools: [{{name: a, type: process, command: {}{}}}]"


@pytest.mark.parametrize(
    ("command", "more", "sent"),
    [
        ("[vllm, --port, '{port}', --api-key, k1]", "", "Bearer k1"),
        ("[vllm, --port, '{port}', --api-key=k2]", "", "Bearer k2"),
        ("[vllm, --port, '{port}']", ", env: {VLLM_API_KEY: {env: KEY}}", f"Bearer {PRIVATE}"),
        ("[vllm, '{port}', --api-key, k]", ", upstream: {api_key: {env: TWO}}", "Bearer two"),
        ("[vllm, --port, '{port}', --api-key]", "", None),
        ("[vllm, --port, '{port}']", "", None),
    ],
)
def test_a_process_is_sent_the_key_that_it_was_started_with(
    command: str, more: str, sent: str | None, tmp_path: Path
) -> None:
    (pool,) = loaded(tmp_path, PROCESS.format(command, more), SECRETS).pools
    assert isinstance(pool, ProcessPool)
    assert dict(pool.upstream_headers).get("authorization") == sent


def test_a_key_on_a_command_line_is_not_shown() -> None:
    assert without_key(["vllm", "--api-key", "k"]) == ["vllm", "--api-key", "<key>"]
    assert without_key(["vllm", "--api-key=k"]) == ["vllm", "--api-key=<key>"]
    assert without_key(["vllm", "--port", "1"]) == ["vllm", "--port", "1"]
