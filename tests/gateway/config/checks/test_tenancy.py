"""Tenants, plans, keys, limits and prices against the rest of the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.gateway.config.texts import (
    HASH,
    KEY,
    LIMIT,
    POOLS,
    REDIS,
    assert_refused,
    loaded,
)

OTHER = hashlib.sha256(b"l").hexdigest()


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("plans: [{name: a}, {name: a}]", "plans[1].name", "plans[0] has it already"),
        ("tenants: [{name: a}, {name: a}]", "tenants[1].name", "tenants[0] has it already"),
        ("plans: [{name: gold}]\ntenants: [{name: a, plan: gld}]", "tenants[0].plan", "mean gold?"),
        ("tenants: [{name: a, plan: gold}]", "tenants[0].plan", "there is none"),
        (
            KEY.format(HASH)[:-1] + f", {{name: b, keys: [{{id: k, sha256: {OTHER}}}]}}]",
            "tenants[1].keys[0].id",
            "tenants[0].keys[0] has it already",
        ),
        (
            KEY.format(HASH)[:-3] + f", {{id: l, sha256: {HASH.upper()}}}]}}]",
            "tenants[0].keys[1].sha256",
            "tenants[0].keys[0] has it already",
        ),
        (
            "identity: {api_keys: false, trusted_headers: {}}\n" + KEY.format(HASH),
            "tenants[0].keys",
            "identity.api_keys is false",
        ),
        (
            "identity: {trusted_headers: {}, unknown_tenants: fre}\nplans: [{name: free}]",
            "identity.unknown_tenants",
            "did you mean free?",
        ),
        (
            "identity: {anonymous: vistors}\ntenants: [{name: visitors}]",
            "identity.anonymous",
            "did you mean visitors?",
        ),
        ("identity: {anonymous: any}", "identity.anonymous", "hold for everybody without"),
        (
            "identity: {jwt: {issuer: a, jwks_uri: 'https://x'}}\nenvoy: {enabled: false}",
            "identity.jwt",
            "set trusted_headers",
        ),
        (
            "tenants: [{name: a}]\npicker: {workers: 4}",
            "limits.store",
            "each would admit the whole of every limit",
        ),
        (
            "tenants: [{name: a}]\npicker: {failure_mode: open}",
            "picker.failure_mode",
            "open lets everybody in",
        ),
        ("pricing: {}", "pricing", "`identity` beside it"),
        ("admin: {address: 0.0.0.0}", "admin.address", "a loopback address, or `token`"),
        ("admin: {address: 192.168.1.1}", "admin.address", "could make API keys"),
        (
            LIMIT.format("{count: cost, limit: 5, period: day}"),
            "tenants[0].limits[0].count",
            "prices in pricing.models",
        ),
        (
            POOLS + LIMIT.format("{count: requests, limit: 5, period: day, pools: [chta]}"),
            "tenants[0].limits[0].pools[0]",
            "did you mean chat?",
        ),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)


@pytest.mark.parametrize(
    "text",
    [
        "picker: {workers: 4, failure_mode: open}",
        "identity: {anonymous: a}\ntenants: [{name: a}]\npicker: {failure_mode: open}",
        "tenants: [{name: a}]\npicker: {workers: 4}\n" + REDIS.format("url: 'redis://h:1/2'"),
        "admin: {address: '::1'}",
        "identity: {trusted_headers: {tenant: x-team, user: x-mail}}\nenvoy: {enabled: false}",
        """
        plans: [{name: p, limits: [{count: concurrency, limit: 1}]}]
        tenants: [{name: p, plan: p, limits: [{count: concurrency, limit: 2}]}]
        """,
        """
        pricing: {models: [{model: '*', input: 0, output: 0}]}
        plans: [{name: p, limits: [{count: cost, limit: 0.000001, period: day}]}]
        """,
        POOLS + "tenants: [{name: a, limits: [{count: concurrency, limit: 1, pools: [chat]}]}]",
    ],
)
def test_what_does_fit_together(tmp_path: Path, text: str) -> None:
    loaded(tmp_path, text)
