"""Envoy's configuration as plain data: bootstrap, listener, clusters, endpoints.

Field names and meanings are those of Envoy's v3 API (1.40).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.envoy import filters, tls
from gateway.envoy.jwt import Jwt, keys_cluster
from gateway.envoy.message import TYPE, Json, socket_address, typed
from gateway.envoy.tls import ListenerTls, UpstreamTls
from picker import names

PICKER_CLUSTER: Final = "penstock_picker"
_MANY: Final = 1_000_000
_UPSTREAM_IDLE_S: Final = 4
"""Below the 5 s after which vLLM's HTTP server closes an idle connection, so that no request is
sent into a closing one."""
_ANSWER_BYTES: Final = 256 << 20
"""Longest JSON answer that is not streamed."""
LOG_FLUSH_S: Final = 0.05
"""Access log entries reach the picker at most this much later."""


@dataclass(frozen=True, slots=True)
class PoolCluster:
    """One pool as Envoy sees it: a cluster whose endpoints the picker chooses from."""

    pool: str
    connect_timeout_s: float = 1.0
    tls: UpstreamTls | None = None
    http2: bool = False

    @property
    def name(self) -> str:
        return names.cluster_name(self.pool)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything Envoy's configuration depends on."""

    run_dir: Path
    address: str
    port: int
    max_body_bytes: int
    stream_idle_timeout_s: float
    decision_timeout_s: float
    fail_open: bool
    fallbacks: int
    picker_sockets: tuple[Path, ...]
    pools: tuple[PoolCluster, ...]
    default_pool: str | None
    tls: ListenerTls | None = None
    jwt: Jwt | None = None

    @property
    def buffer_bytes(self) -> int:
        """Bodies are buffered whole, JSON answers too: they may be longer than requests. The
        limit of requests is held by the picker."""
        return max(self.max_body_bytes, _ANSWER_BYTES)

    @property
    def admin_socket(self) -> Path:
        return self.run_dir / "envoy-admin.sock"

    @property
    def listeners_file(self) -> Path:
        return self.run_dir / "lds.json"

    @property
    def clusters_file(self) -> Path:
        return self.run_dir / "cds.json"

    @property
    def pickers_file(self) -> Path:
        return self.run_dir / "eds.pickers.json"

    def endpoints_file(self, pool: str) -> Path:
        return self.run_dir / f"eds.pool.{pool}.json"


def bootstrap(plan: Plan) -> Json:
    """The static part, given to Envoy at its start."""
    return {
        "node": {"id": "penstock", "cluster": "penstock"},
        "admin": {"address": {"pipe": {"path": str(plan.admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": _watched(plan.listeners_file),
            "cds_config": _watched(plan.clusters_file),
        },
        "static_resources": {"clusters": [_picker_cluster(plan)]},
        "stats_flush_interval": "5s",
        "overload_manager": {"resource_monitors": [_connection_limit()]},
    }


def listeners(plan: Plan) -> Json:
    """The discovery answer with the one client-facing listener."""
    return _discovery("envoy.config.listener.v3.Listener", [_listener(plan)])


def clusters(plan: Plan) -> Json:
    """The discovery answer with one cluster a pool, and the one that keys of tokens are from."""
    resources = [_pool_cluster(plan, pool) for pool in plan.pools]
    return _discovery("envoy.config.cluster.v3.Cluster", [*resources, *_keys_clusters(plan)])


def _keys_clusters(plan: Plan) -> list[Json]:
    if plan.jwt is None or plan.jwt.jwks_uri is None:
        return []
    return [keys_cluster(plan.jwt.jwks_uri)]


def endpoints(pool: str, addresses: Iterable[str]) -> Json:
    """The discovery answer with a pool's replicas, each ``ip:port``."""
    return {"resources": [_members(pool, addresses)]}


def _members(pool: str, addresses: Iterable[str]) -> Json:
    members = [{"endpoint": {"address": socket_address(address)}} for address in sorted(addresses)]
    return {
        "@type": f"{TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": names.cluster_name(pool),
        "endpoints": [{"lb_endpoints": members}],
    }


def static(plan: Plan, members: Mapping[str, Sequence[str]]) -> Json:
    """One self-contained configuration, for reading and for ``envoy --mode validate``."""
    whole = bootstrap(plan)
    del whole["dynamic_resources"]
    pools = [
        _with_members(_pool_cluster(plan, pool), _members(pool.pool, members.get(pool.pool, ())))
        for pool in plan.pools
    ]
    whole["static_resources"] = {
        "listeners": [_listener(plan)],
        "clusters": [
            _with_members(_picker_cluster(plan), _picker_sockets(plan)),
            *pools,
            *_keys_clusters(plan),
        ],
    }
    return whole


def _with_members(cluster: Json, assignment: Json) -> Json:
    rest = {key: value for key, value in cluster.items() if key != "eds_cluster_config"}
    fixed = {key: value for key, value in assignment.items() if key != "@type"}
    return {**rest, "type": "STATIC", "load_assignment": fixed}


def _connection_limit() -> Json:
    return typed(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=_MANY,
    )


def _watched(path: Path) -> Json:
    return {
        "path_config_source": {
            "path": str(path),
            "watched_directory": {"path": str(path.parent)},
        },
        "resource_api_version": "V3",
    }


def _discovery(message: str, resources: Sequence[Json]) -> Json:
    return {"resources": [{"@type": TYPE + message, **resource} for resource in resources]}


def _http2() -> Json:
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }


def _unlimited() -> Json:
    # Envoy's defaults (1,024 connections and requests) are far below a fleet of long streams.
    return {
        "thresholds": [
            {
                "max_connections": _MANY,
                "max_pending_requests": _MANY,
                "max_requests": _MANY,
                "max_retries": _MANY,
            }
        ]
    }


def pickers(plan: Plan) -> Json:
    """The discovery answer with the sockets of the picker workers."""
    return {"resources": [_picker_sockets(plan)]}


def _picker_sockets(plan: Plan) -> Json:
    members = [
        {"endpoint": {"address": {"pipe": {"path": str(path)}}}} for path in plan.picker_sockets
    ]
    return {
        "@type": f"{TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": PICKER_CLUSTER,
        "endpoints": [{"lb_endpoints": members}],
    }


def _picker_cluster(plan: Plan) -> Json:
    return {
        "name": PICKER_CLUSTER,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _watched(plan.pickers_file)},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "typed_extension_protocol_options": _http2(),
        "circuit_breakers": _unlimited(),
        # A worker that has died is left out after its first refused connection.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 1,
            "base_ejection_time": "0.5s",
            "max_ejection_time": "1s",
            "max_ejection_percent": 100,
            "interval": "0.1s",
        },
        "ignore_health_on_host_removal": True,
    }


def _pool_cluster(plan: Plan, pool: PoolCluster) -> Json:
    http: Json = {"http2_protocol_options": {}} if pool.http2 else {"http_protocol_options": {}}
    cluster: Json = {
        "name": pool.name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _watched(plan.endpoints_file(pool.pool))},
        "connect_timeout": f"{pool.connect_timeout_s}s",
        "per_connection_buffer_limit_bytes": plan.buffer_bytes,
        "circuit_breakers": _unlimited(),
        "ignore_health_on_host_removal": True,
        "load_balancing_policy": _override_host(),
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "consecutive_5xx": _MANY,
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{_UPSTREAM_IDLE_S}s"},
                "explicit_http_config": http,
            }
        },
    }
    if pool.tls is not None:
        cluster["transport_socket"] = tls.upstream(pool.tls)
    return cluster


def _override_host() -> Json:
    """The picker's list in order, one entry an attempt; without one, the least-loaded replica."""
    fallback = typed(
        "envoy.load_balancing_policies.least_request",
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    )
    source = {"key": names.LB_NAMESPACE, "path": [{"key": names.DESTINATION}]}
    override = typed(
        "envoy.load_balancing_policies.override_host",
        "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        override_host_sources=[{"metadata": source}],
        fallback_policy={"policies": [{"typed_extension_config": fallback}]},
    )
    return {"policies": [{"typed_extension_config": override}]}


def _listener(plan: Plan) -> Json:
    chain: Json = {"filters": [_connection_manager(plan)]}
    if plan.tls is not None:
        chain["transport_socket"] = tls.downstream(plan.tls)
    return {
        "name": "clients",
        "address": {"socket_address": {"address": plan.address, "port_value": plan.port}},
        "per_connection_buffer_limit_bytes": plan.buffer_bytes,
        "filter_chains": [chain],
    }


def _connection_manager(plan: Plan) -> Json:
    return typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="clients",
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        # The picker and the replicas must read one path: %2F is a slash to an ASGI server.
        path_with_escaped_slashes_action="UNESCAPE_AND_FORWARD",
        generate_request_id=True,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        server_header_transformation="PASS_THROUGH",
        stream_idle_timeout=f"{plan.stream_idle_timeout_s}s",
        request_headers_timeout="30s",
        request_timeout="600s",
        common_http_protocol_options={"idle_timeout": "3600s"},
        route_config=_routes(plan),
        http_filters=filters.chain(plan.decision_timeout_s, plan.jwt, fail_open=plan.fail_open),
        local_reply_config=filters.local_replies(),
        access_log=[_access_log()],
    )


def _routes(plan: Plan) -> Json:
    action: Json = {
        "timeout": "0s",
        "idle_timeout": f"{plan.stream_idle_timeout_s}s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            "retriable_status_codes": [503],
            "num_retries": plan.fallbacks,
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.010s"},
        },
    }
    decided: Json = {
        "match": {
            "prefix": "/",
            "headers": [{"name": names.POOL_HEADER, "present_match": True}],
        },
        "route": {"cluster_header": names.POOL_HEADER, **action},
        "request_headers_to_remove": [names.POOL_HEADER, names.DESTINATION],
    }
    # Before the decision every request matches the last route; only a request that passed
    # without one (no picker, fail open) also leaves by it.
    if plan.fail_open and plan.default_pool is not None:
        undecided: Json = {"cluster": names.cluster_name(plan.default_pool), **action}
        last: Json = {"match": {"prefix": "/"}, "route": undecided}
    else:
        last = {"match": {"prefix": "/"}, "direct_response": {"status": 503}}
    host = {"name": "all", "domains": ["*"], "routes": [decided, last]}
    return {"name": "pools", "virtual_hosts": [host]}


def _access_log() -> Json:
    return typed(
        "envoy.access_loggers.http_grpc",
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": "penstock",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": PICKER_CLUSTER}},
            "buffer_flush_interval": f"{LOG_FLUSH_S}s",
            "buffer_size_bytes": 65536,
        },
    )
