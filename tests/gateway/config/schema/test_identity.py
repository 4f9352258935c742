"""Ways in: API keys, trusted headers, tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_refused


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("identity: {api_keys: false}", "identity.api_keys", "every request is refused"),
        ("identity: {unknown_tenants: x}", "identity.unknown_tenants", "trusted_headers or jwt"),
        ("identity: {user_header: X-User}", "identity.user_header", "in lower case"),
        ("identity: {user_header: 'x user'}", "identity.user_header", "the name of a header"),
        ("identity: {user_header: ':path'}", "identity.user_header", "the name of a header"),
        ("identity: {user_header: connection}", "identity.user_header", "connection has a meaning"),
        (
            "identity: {trusted_headers: {tenant: authorization}}",
            "identity.trusted_headers.tenant",
            "authorization has a meaning",
        ),
        (
            "identity: {trusted_headers: {tenant: x-envoy-tenant}}",
            "identity.trusted_headers.tenant",
            "x-envoy-tenant has a meaning",
        ),
        (
            "identity: {trusted_headers: {tenant: x-penstock-pool}}",
            "identity.trusted_headers.tenant",
            "has a meaning",
        ),
        (
            "identity: {trusted_headers: {tenant: x-t, user: x-t}}",
            "identity.trusted_headers.user",
            "another header",
        ),
        (
            "identity: {trusted_headers: {user: x-u}, user_header: x-u}",
            "identity.user_header",
            "a header that is not one of trusted_headers",
        ),
        ("identity: {jwt: {issuer: a}}", "identity.jwt", "exactly one of jwks and jwks_uri"),
        (
            "identity: {jwt: {issuer: a, jwks_uri: 'ftp://x'}}",
            "identity.jwt.jwks_uri",
            "https://",
        ),
        (
            "identity: {jwt: {issuer: a, jwks_uri: 'https://x', tenant_claim: a..b}}",
            "identity.jwt.tenant_claim",
            "dots lead into nested ones",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)
