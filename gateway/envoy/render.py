"""Envoy's configuration as plain data: bootstrap, and the answers in its discovery files.

Field names and meanings are those of Envoy's v3 API (1.40).
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config.schema.pools import Pool
from gateway.config.schema.terms import is_ip
from gateway.envoy.batches import lane_clusters
from gateway.envoy.clusters import (
    pool_cluster,
    pool_members,
    worker_clusters,
    worker_members,
)
from gateway.envoy.jwt import keys_clusters
from gateway.envoy.listener import all_listeners
from gateway.envoy.message import MANY, TYPE, Json, typed, watched
from gateway.envoy.plan import EnvoyPlan


def bootstrap(plan: EnvoyPlan) -> Json:
    """The static part, given to Envoy at its start."""
    return {
        "node": {"id": "penstock", "cluster": "penstock"},
        "admin": {"address": {"pipe": {"path": str(plan.admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": watched(plan.listeners_file),
            "cds_config": watched(plan.clusters_file),
        },
        "static_resources": {"clusters": worker_clusters(plan)},
        "stats_flush_interval": "5s",
        "overload_manager": {"resource_monitors": [_connection_limit()]},
    }


def listeners(plan: EnvoyPlan) -> Json:
    """The discovery answer with the client-facing listener, and that of the batch lane."""
    return _discovery("envoy.config.listener.v3.Listener", all_listeners(plan))


def clusters(plan: EnvoyPlan) -> Json:
    """The discovery answer with a cluster for each pool, one for the keys of tokens, and one for
    the batch lane."""
    resources = [pool_cluster(plan, pool) for pool in plan.config.pools]
    others = [*keys_clusters(plan.jwt), *lane_clusters(plan)]
    return _discovery("envoy.config.cluster.v3.Cluster", [*resources, *others])


def static(plan: EnvoyPlan) -> Json:
    """One self-contained configuration, for reading and for ``envoy --mode validate``, with the
    replicas whose addresses stand in the configuration."""
    whole = bootstrap(plan)
    del whole["dynamic_resources"]
    pools = [
        _with_members(pool_cluster(plan, pool), pool_members(pool.name, _known_addresses(pool)))
        for pool in plan.config.pools
    ]
    decisions, access_logs = map(
        _with_members, worker_clusters(plan), worker_members(plan).values()
    )
    whole["static_resources"] = {
        "listeners": all_listeners(plan),
        "clusters": [
            decisions,
            *pools,
            access_logs,
            *keys_clusters(plan.jwt),
            *lane_clusters(plan),
        ],
    }
    return whole


def _known_addresses(pool: Pool) -> list[str]:
    endpoints = pool.known_endpoints
    return [one for one in endpoints if is_ip(one.rpartition(":")[0].strip("[]"))]


def _with_members(cluster: Json, assignment: Json) -> Json:
    rest = {key: value for key, value in cluster.items() if key != "eds_cluster_config"}
    fixed = {key: value for key, value in assignment.items() if key != "@type"}
    return {**rest, "type": "STATIC", "load_assignment": fixed}


def _connection_limit() -> Json:
    return typed(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=MANY,
    )


def _discovery(message: str, resources: Sequence[Json]) -> Json:
    return {"resources": [{"@type": TYPE + message, **resource} for resource in resources]}
