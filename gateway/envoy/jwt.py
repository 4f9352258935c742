"""Tokens that Envoy verifies. The picker decides whether the request is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from yarl import URL

from gateway.envoy import tls
from gateway.envoy.message import Json, http_filter, socket_address
from picker import names

JWKS_CLUSTER: Final = "penstock_jwks"

_PROVIDER: Final = "penstock"
_SCHEMES: Final = ("Bearer", "bearer")
_FETCH_TIMEOUT_S: Final = 3
_KEYS_ARE_GOOD_S: Final = 300
"""Keys are fetched again after this time; when that fails, the old ones stay in use."""
_FETCH_AGAIN_S: Final = 1
"""After a failed fetch."""
_MAX_KEYS_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class JwtProvider:
    """Who issues tokens, and the keys that sign them. One of ``jwks`` and ``jwks_uri`` is given."""

    issuer: str
    audiences: tuple[str, ...]
    """The token must be for one of them (`aud`); empty: any."""
    jwks: str | None
    """The keys themselves (JSON)."""
    jwks_uri: str | None
    """Where the issuer publishes them, http or https."""
    forward: bool = False
    """The replica gets the token."""


def authentication(jwt: JwtProvider) -> Json:
    """The filter that writes a token's claims, or why it is not good, into the request's metadata.

    It refuses nothing: a request may come with an API key, and errors are in the client's shape.
    """
    provider: Json = {
        "issuer": jwt.issuer,
        "from_headers": [
            {"name": "authorization", "value_prefix": f"{scheme} "} for scheme in _SCHEMES
        ],
        "forward": jwt.forward,
        "payload_in_metadata": names.CLAIMS,
        "failed_status_in_metadata": names.CLAIMS_FAILED,
        "require_expiration": True,
    }
    if jwt.audiences:
        provider["audiences"] = list(jwt.audiences)
    if jwt.jwks_uri is None:
        provider["local_jwks"] = {"inline_string": jwt.jwks or ""}
    else:
        provider["remote_jwks"] = {
            "http_uri": {
                "uri": jwt.jwks_uri,
                "cluster": JWKS_CLUSTER,
                "timeout": f"{_FETCH_TIMEOUT_S}s",
            },
            "cache_duration": f"{_KEYS_ARE_GOOD_S}s",
            # The listener does not wait for the keys: requests with API keys need none.
            "async_fetch": {
                "fast_listener": True,
                "failed_refetch_duration": f"{_FETCH_AGAIN_S}s",
            },
        }
    # The first requirement makes the filter write why a token failed; the second one lets the
    # request pass.
    requirements = [{"provider_name": _PROVIDER}, {"allow_missing_or_failed": {}}]
    return http_filter(
        "jwt_authn",
        "jwt_authn.v3.JwtAuthentication",
        providers={_PROVIDER: provider},
        rules=[
            {
                "match": {"prefix": "/"},
                "requires": {"requires_any": {"requirements": requirements}},
            }
        ],
    )


def keys_cluster(uri: str) -> Json:
    """The cluster that keys are fetched from."""
    url = URL(uri)
    host, port = url.host or "", url.port or 443
    shown = f"[{host}]" if ":" in host else host
    cluster: Json = {
        "name": JWKS_CLUSTER,
        "type": "LOGICAL_DNS",
        "connect_timeout": f"{_FETCH_TIMEOUT_S}s",
        "per_connection_buffer_limit_bytes": _MAX_KEYS_BYTES,
        "load_assignment": {
            "cluster_name": JWKS_CLUSTER,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": socket_address(f"{shown}:{port}")}}]}
            ],
        },
    }
    if url.scheme == "https":
        cluster["transport_socket"] = tls.upstream(tls.ClusterTls(ca=None, server_name=host))
    return cluster
