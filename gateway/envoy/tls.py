"""TLS on both sides of Envoy."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final

from gateway.envoy.message import Json, typed

_SYSTEM_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_SOCKET: Final = "envoy.transport_sockets.tls"
_MESSAGES: Final = "envoy.extensions.transport_sockets.tls.v3"


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS towards a pool's replicas, or whoever else Envoy asks."""

    ca: str | None
    """PEM certificates that they must be signed by; None: the system's."""
    server_name: str | None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """Certificate chain and key of the client-facing listener, PEM."""

    certificate: str
    key: str = field(repr=False)


def upstream(tls: UpstreamTls) -> Json:
    """The transport socket of a cluster."""
    common: Json = {}
    name = tls.server_name
    is_ip = name is not None and _is_ip(name)
    if tls.verify:
        trusted = {"inline_string": tls.ca} if tls.ca else {"filename": _SYSTEM_CERTIFICATES}
        validation: Json = {"trusted_ca": trusted}
        if name is not None:
            kind = "IP_ADDRESS" if is_ip else "DNS"
            match = {"san_type": kind, "matcher": {"exact": name}}
            validation["match_typed_subject_alt_names"] = [match]
        common["validation_context"] = validation
    fields: Json = {"common_tls_context": common}
    if name is not None and not is_ip:
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


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
