"""A worker gets the whole configuration, secrets included, without files or variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.reading.wire import from_json, to_json
from gateway.config.schema.pools import ProcessPool
from gateway.config.schema.secret import Secret
from tests.gateway.config.texts import HASH, PRIVATE, loaded


def test_a_worker_gets_all_of_it(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        admin: {token: {env: TOKEN}}
        identity: {jwt: {issuer: i, jwks: {env: TOKEN}, audiences: [a]}, unknown_tenants: p,
                   trusted_headers: {user: x-user}}
        plans: [{name: p, limits: [{count: cost, limit: 0.1, period: month, window: calendar}]}]
        tenants:
          - name: a
            plan: p
            models: [x]
            limits: [{count: weighted_tokens, limit: 5, period: day, weights: {output: 0.5}}]
            keys:
              - {id: k, sha256: {env: HASH}, expires: 2027-01-31T00:00:00Z,
                 limits: [{count: requests, limit: 1e15, period: second, burst: 3}]}
        pricing: {models: [{model: x, input: 0.15, output: 0.000001}, {model: y, cel: "1.0"}]}
        limits: {store: {redis: {url: {env: URL}}}}
        state_dir: state
        """,
        {"TOKEN": PRIVATE, "HASH": HASH, "URL": f"redis://:{PRIVATE}@h"},
    )
    content = to_json(config)
    received = from_json(content)
    assert received == config
    assert received.tenants[0].keys[0].digest == bytes.fromhex(HASH)
    assert to_json(received) == content


def test_a_worker_gets_all_of_it_without_files_or_variables(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("CERTIFICATE\n")
    (tmp_path / "key.pem").write_text(f"{PRIVATE}\n")
    config = loaded(
        tmp_path,
        "listen: {tls: {certificate: {file: cert.pem}, key: {file: key.pem}}}\n"
        "pools: [{name: a, type: process, command: ['{port}'], cwd: sub,"
        " env: {TOKEN: {env: TOKEN}, X: y}}]\n"
        "telemetry: {request_log: {file: log}}\n"
        "models: [{name: a, targets: [{model: b}]}]\n"
        "scheduling: {profiles: {p: {scorers: [{name: queue, params: {}}]}}}\n",
        {"TOKEN": "t-1"},
    )
    content = to_json(config)
    (tmp_path / "key.pem").unlink()
    received = from_json(content)
    assert received == config
    assert received.listen.tls is not None
    assert received.listen.tls.key.reveal() == PRIVATE
    (pool,) = received.pools
    assert isinstance(pool, ProcessPool)
    token = pool.env["TOKEN"]
    assert isinstance(token, Secret)
    assert token.reveal() == "t-1"
    # The values stand apart from the configuration.
    assert PRIVATE not in json.dumps(json.loads(content)["config"])
    assert to_json(received) == content


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"config": {}, "secrets": 1}', b"x"])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        from_json(content)
