"""TLS on both sides of Envoy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.config.schema.terms import is_ip
from gateway.envoy.message import Json, typed

_SYSTEM_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_SOCKET: Final = "envoy.transport_sockets.tls"
_MESSAGES: Final = "envoy.extensions.transport_sockets.tls.v3"


@dataclass(frozen=True, slots=True)
class ClusterTls:
    """TLS from Envoy to the hosts of a cluster."""

    ca: str | None
    """PEM certificates that theirs must be signed by; None: the system's."""
    server_name: str | None
    """Name that their certificates are for; sent as SNI when it is no IP address."""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """Certificate chain and key of the client-facing listener, PEM."""

    certificate: str
    key: str = field(repr=False)


def upstream(tls: ClusterTls) -> Json:
    """The transport socket of a cluster."""
    common: Json = {}
    name = tls.server_name
    by_address = name is not None and is_ip(name)
    if tls.verify:
        trusted = {"inline_string": tls.ca} if tls.ca else {"filename": _SYSTEM_CERTIFICATES}
        validation: Json = {"trusted_ca": trusted}
        if name is not None:
            kind = "IP_ADDRESS" if by_address else "DNS"
            match = {"san_type": kind, "matcher": {"exact": name}}
            validation["match_typed_subject_alt_names"] = [match]
        common["validation_context"] = validation
    fields: Json = {"common_tls_context": common}
    if name is not None and not by_address:
        fields["sni"] = name
    return typed(_SOCKET, f"{_MESSAGES}.UpstreamTlsContext", **fields)


def downstream(tls: ListenerTls) -> Json:
    """The transport socket of the listener."""
    certificate = {
        "certificate_chain": {"inline_string": tls.certificate},
        "private_key": {"inline_string": tls.key},
    }
    return typed(
        _SOCKET,
        f"{_MESSAGES}.DownstreamTlsContext",
        common_tls_context={
            "tls_certificates": [certificate],
            "alpn_protocols": ["h2", "http/1.1"],
        },
    )
