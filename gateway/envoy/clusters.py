"""Envoy's clusters: one for each pool, and two for the pickers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.config.schema.pools import Pool
from gateway.envoy import tls
from gateway.envoy.message import MANY, TYPE, Json, socket_address, typed, watched
from gateway.envoy.plan import ACCESS_LOG_CLUSTER, PICKER_CLUSTER, EnvoyPlan
from gateway.envoy.tries import upstream_filters
from picker import names

_UPSTREAM_IDLE_S: Final = 4
"""Below the 5 s after which vLLM's HTTP server closes an idle connection, so that no request is
sent into a closing one."""


_READ_BYTES: Final = 256 * 1024
"""Most that is taken of a replica's answer at once, bytes: other streams of the worker go on after
it."""


def pool_cluster(plan: EnvoyPlan, pool: Pool) -> Json:
    """A pool's cluster; its replicas are in a discovery file of their own."""
    cluster: Json = {
        "name": names.cluster_name(pool.name),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": watched(plan.endpoints_file(pool.name))},
        "connect_timeout": "1.0s",
        "per_connection_buffer_limit_bytes": _READ_BYTES,
        "circuit_breakers": _unlimited(),
        "ignore_health_on_host_removal": True,
        "load_balancing_policy": _override_host(),
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "consecutive_5xx": MANY,
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        "typed_extension_protocol_options": _http_options(
            common_http_protocol_options={"idle_timeout": f"{_UPSTREAM_IDLE_S}s"},
            explicit_http_config={"http_protocol_options": {}},
            http_filters=upstream_filters(),
        ),
    }
    if pool.upstream_tls is not None:
        cluster["transport_socket"] = tls.upstream(pool.upstream_tls, plan.secret)
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
        selected_host_key={"key": names.SERVED_NAMESPACE, "path": [{"key": "address"}]},
        fallback_policy={"policies": [{"typed_extension_config": fallback}]},
    )
    return {"policies": [{"typed_extension_config": override}]}


def pool_members(pool: str, addresses: Iterable[str]) -> Json:
    """A pool's replicas, each ``ip:port``."""
    return _assignment(names.cluster_name(pool), map(socket_address, sorted(addresses)))


def worker_clusters(plan: EnvoyPlan) -> list[Json]:
    """The picker workers' clusters; their sockets are in discovery files."""
    return [_worker_cluster(plan, name) for name in worker_members(plan)]


def _worker_cluster(plan: EnvoyPlan, name: str) -> Json:
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": watched(plan.workers_file(name))},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "typed_extension_protocol_options": _http_options(
            explicit_http_config={"http2_protocol_options": {}}
        ),
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


def worker_members(plan: EnvoyPlan) -> dict[str, Json]:
    """The sockets of the picker workers, by cluster."""
    sockets = {
        PICKER_CLUSTER: [worker.decisions for worker in plan.workers],
        ACCESS_LOG_CLUSTER: [worker.access_logs for worker in plan.workers],
    }
    return {
        name: _assignment(name, [{"pipe": {"path": str(path)}} for path in paths])
        for name, paths in sockets.items()
    }


def _assignment(cluster: str, addresses: Iterable[Json]) -> Json:
    members = [{"endpoint": {"address": address}} for address in addresses]
    return {
        "@type": f"{TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": members}],
    }


def _http_options(**options: object) -> Json:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {name: {"@type": TYPE + name, **options}}


def _unlimited() -> Json:
    # Envoy's defaults (1,024 connections and requests) are far below a fleet of long streams.
    return {
        "thresholds": [
            {
                "max_connections": MANY,
                "max_pending_requests": MANY,
                "max_requests": MANY,
                "max_retries": MANY,
            }
        ]
    }
