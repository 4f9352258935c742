"""TLS on both sides of Envoy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.config.schema.secret import Secret
from gateway.config.schema.terms import is_ip
from gateway.config.schema.tls import ServerTls, UpstreamTls
from gateway.envoy.message import Json, typed

_SYSTEM_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_SOCKET: Final = "envoy.transport_sockets.tls"
_MESSAGES: Final = "envoy.extensions.transport_sockets.tls.v3"


def upstream(tls: UpstreamTls, secret: Callable[[Secret], str] = Secret.reveal) -> Json:
    """The transport socket of a cluster."""
    common: Json = {}
    name = tls.server_name
    by_address = name is not None and is_ip(name)
    if tls.verify:
        trusted = (
            {"inline_string": secret(tls.ca)} if tls.ca else {"filename": _SYSTEM_CERTIFICATES}
        )
        validation: Json = {"trusted_ca": trusted}
        if name is not None:
            kind = "IP_ADDRESS" if by_address else "DNS"
            match = {"san_type": kind, "matcher": {"exact": name}}
            validation["match_typed_subject_alt_names"] = [match]
        common["validation_context"] = validation
    if tls.certificate is not None and tls.key is not None:
        common["tls_certificates"] = [
            {
                "certificate_chain": {"inline_string": secret(tls.certificate)},
                "private_key": {"inline_string": secret(tls.key)},
            }
        ]
    fields: Json = {"common_tls_context": common}
    if name is not None and not by_address:
        fields["sni"] = name
    return typed(_SOCKET, f"{_MESSAGES}.UpstreamTlsContext", **fields)


def downstream(tls: ServerTls, secret: Callable[[Secret], str]) -> Json:
    """The transport socket of the listener."""
    certificate = {
        "certificate_chain": {"inline_string": secret(tls.certificate)},
        "private_key": {"inline_string": secret(tls.key)},
    }
    return typed(
        _SOCKET,
        f"{_MESSAGES}.DownstreamTlsContext",
        common_tls_context={
            "tls_certificates": [certificate],
            "alpn_protocols": ["h2", "http/1.1"],
        },
    )
