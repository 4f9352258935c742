"""Envoy alone, for comparison: the same program in front of the same replicas."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

Json: TypeAlias = dict[str, object]

_TYPE = "type.googleapis.com/envoy."
_BUFFER_BYTES = 64 << 20
_UPSTREAM_IDLE = "4s"
_MANY = {"max_connections": 10_000, "max_pending_requests": 10_000, "max_requests": 10_000}


def configuration(port: int, replicas: Sequence[str], *, policy: str = "ROUND_ROBIN") -> Json:
    """A proxy from 127.0.0.1:``port`` to the replicas (``host:port``), without filters but the
    router. ``policy`` is Envoy's ``lb_policy``."""
    cluster = _cluster([replica.rsplit(":", 1) for replica in replicas], policy)
    router = _typed("filters.http.router", "extensions.filters.http.router.v3.Router")
    manager = _typed(
        "filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="clients",
        http_filters=[router],
        route_config={
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "replicas", "timeout": "0s"},
                        }
                    ],
                }
            ]
        },
    )
    listener = {
        "name": "clients",
        "address": _address(port),
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "filter_chains": [{"filters": [manager]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _cluster(replicas: Sequence[Sequence[str]], policy: str) -> Json:
    options = f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions"
    members = [{"endpoint": {"address": _address(int(port), host)}} for host, port in replicas]
    resolved = all(_is_address(host) for host, _ in replicas)
    return {
        "name": "replicas",
        "type": "STATIC" if resolved else "STRICT_DNS",
        "lb_policy": policy,
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "circuit_breakers": {"thresholds": [_MANY]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "replicas",
            "endpoints": [{"lb_endpoints": members}],
        },
    }


def _address(port: int, host: str = "127.0.0.1") -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _typed(name: str, message: str, **fields: object) -> Json:
    return {"name": f"envoy.{name}", "typed_config": {"@type": _TYPE + message, **fields}}
