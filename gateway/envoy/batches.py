"""The batch lane in Envoy's configuration: routes to its process, and that process's cluster.

Uploads pass unseen: the picker decides by a request's headers, and nothing of the body is held.
"""

from __future__ import annotations

from typing import Final

from gateway.envoy.message import MANY, TYPE, Json
from gateway.envoy.plan import EnvoyPlan
from picker import names

_FLOW_BYTES: Final = 1 << 20
"""Of a body that may be between the client and the disk."""
_HEADERS_ONLY: Final[Json] = {
    "envoy.filters.http.ext_proc": {
        "@type": f"{TYPE}envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
        "overrides": {
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "NONE",
                "request_trailer_mode": "SKIP",
                "response_header_mode": "SKIP",
                "response_body_mode": "NONE",
                "response_trailer_mode": "SKIP",
            }
        },
    }
}


def lane_routes(plan: EnvoyPlan, nobody: str) -> list[Json]:
    """Before any other route. A request takes the last of them until it is decided, and then one
    of the others; ``nobody``: a cluster that does not exist."""
    beginnings = "|".join(plan.config.handed_over)
    if not beginnings:
        return []
    # What has a body is not tried twice: that would take a copy of it. The process may die, and is
    # started again at once.
    retry: Json = {
        "retry_policy": {
            "retry_on": "reset,connect-failure",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
        }
    }
    return [
        _to_lane(plan, [{"name": ":method", "string_match": {"exact": "GET"}}], retry),
        _to_lane(plan, [], {}),
        {
            "match": {
                "safe_regex": {"regex": f"(?:{beginnings})(?:/.*)?"},
                "headers": [{"name": names.POOL_HEADER, "present_match": False}],
            },
            "route": {
                "cluster": nobody,
                "timeout": "0s",
                "idle_timeout": f"{plan.config.undecided_idle_s}s",
            },
            "request_body_buffer_limit": _FLOW_BYTES,
            "typed_per_filter_config": _HEADERS_ONLY,
        },
    ]


def _to_lane(plan: EnvoyPlan, headers: list[Json], action: Json) -> Json:
    decided = {"name": names.POOL_HEADER, "string_match": {"exact": names.BATCHES_CLUSTER}}
    return {
        "match": {"prefix": "/", "headers": [decided, *headers]},
        "route": {
            "cluster": names.BATCHES_CLUSTER,
            "timeout": "0s",
            "idle_timeout": f"{plan.config.listen.stream_idle_timeout_s}s",
            **action,
        },
        "request_headers_to_remove": [names.POOL_HEADER, names.DESTINATION, "expect"],
        "request_body_buffer_limit": _FLOW_BYTES,
    }


def lane_clusters(plan: EnvoyPlan) -> list[Json]:
    """The process that serves files and batches."""
    if not plan.config.handed_over:
        return []
    address = {"pipe": {"path": str(plan.batches_socket)}}
    return [
        {
            "name": names.BATCHES_CLUSTER,
            "type": "STATIC",
            "connect_timeout": "5s",
            "per_connection_buffer_limit_bytes": _FLOW_BYTES,
            "circuit_breakers": {
                "thresholds": [
                    {"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}
                ]
            },
            "load_assignment": {
                "cluster_name": names.BATCHES_CLUSTER,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }
    ]
