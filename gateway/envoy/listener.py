"""Envoy's client-facing listener: connection manager, routes, access log."""

from __future__ import annotations

from typing import Final

from gateway.envoy import cors, filters, local_replies, tls
from gateway.envoy.batches import lane_routes
from gateway.envoy.message import TYPE, Json, typed
from gateway.envoy.plan import ACCESS_LOG_CLUSTER, EnvoyPlan
from picker import names
from picker.pipeline.open_paths import OpenPaths
from picker.server import access_log

_AT_ONCE_BYTES: Final = 16 << 20
"""Of a connection: read at once, and answered and not taken by its client yet. A body that the
picker is to see has the limit of its route. With that one here, a fast upload was held as a whole:
200 MB of 200, now 19."""
_NOBODY: Final = "penstock_undecided"
"""A cluster that does not exist: an undecided request goes nowhere, and gets 503."""


def all_listeners(plan: EnvoyPlan) -> list[Json]:
    """The one that clients connect to, and that of the batch lane where there is one."""
    return [listener(plan), *([_lines_listener(plan)] if plan.config.handed_over else [])]


def _lines_listener(plan: EnvoyPlan) -> Json:
    """For the lines of batches: as clients' requests but for the header that says whose they are.
    Only this user reaches the socket."""
    manager = _connection_manager(plan, "lines", keep=(names.BATCH_LINE,))
    return {
        "name": "lines",
        "address": {"pipe": {"path": str(plan.lines_socket), "mode": 0o600}},
        "per_connection_buffer_limit_bytes": _AT_ONCE_BYTES,
        "filter_chains": [{"filters": [manager]}],
    }


def listener(plan: EnvoyPlan) -> Json:
    """The one that clients connect to."""
    chain: Json = {"filters": [_connection_manager(plan, "clients")]}
    listen = plan.config.listen
    if listen.tls is not None:
        chain["transport_socket"] = tls.downstream(listen.tls, plan.secret)
    return {
        "name": "clients",
        "address": {"socket_address": {"address": listen.address, "port_value": listen.port}},
        "per_connection_buffer_limit_bytes": _AT_ONCE_BYTES,
        "filter_chains": [chain],
    }


def _connection_manager(plan: EnvoyPlan, name: str, *, keep: tuple[str, ...] = ()) -> Json:
    """``keep``: headers that come from us here."""
    return typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        # The picker and the replicas must read one path: %2F is a slash to an ASGI server.
        path_with_escaped_slashes_action="UNESCAPE_AND_FORWARD",
        generate_request_id=True,
        preserve_external_request_id=True,
        # A client's id stays as it is: by default Envoy writes its own sampling into a UUID.
        request_id_extension={
            "typed_config": {
                "@type": TYPE + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
            }
        },
        always_set_request_id_in_response=True,
        server_header_transformation="PASS_THROUGH",
        stream_idle_timeout=f"{plan.config.listen.stream_idle_timeout_s}s",
        request_headers_timeout="30s",
        request_timeout=f"{plan.config.listen.upload_timeout_s}s",
        http_protocol_options={
            # nginx speaks 1.0 to what is behind it unless told otherwise; so do ab and old probes.
            "accept_http_10": True,
            "default_host_for_http_10": "penstock",
        },
        common_http_protocol_options={
            "idle_timeout": "3600s",
            "max_headers_count": 200,  # `MAX_HEADERS` of the picker, and what decisions add
        },
        route_config=_routes(plan),
        early_header_mutation_extensions=[filters.without_denied_headers(keep)],
        http_filters=filters.chain(plan),
        local_reply_config=local_replies.mappers(),
        access_log=[_access_log()],
        # An entry of each request that is under way then, besides the one at its end.
        access_log_options={"access_log_flush_interval": f"{plan.sign_s}s"},
    )


def _routes(plan: EnvoyPlan) -> Json:
    listen = plan.config.listen
    action: Json = {
        "timeout": "0s",
        "idle_timeout": f"{listen.stream_idle_timeout_s}s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            # The decision names more where it is safe to send the request once more.
            "retriable_status_codes": [503],
            "num_retries": plan.config.scheduling.fallbacks,
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.010s"},
        },
    }
    decided: Json = {
        "match": {
            "prefix": "/",
            "headers": [{"name": names.POOL_HEADER, "present_match": True}],
        },
        "route": {"cluster_header": names.POOL_HEADER, **action},
        # The body is here already: whatever a client expects before it sends that, no replica is
        # to judge.
        "request_headers_to_remove": [names.POOL_HEADER, names.DESTINATION, "expect"],
    }
    # Before the decision a request matches one of the other routes. It leaves by that only when
    # there was no decision (no picker).
    host: Json = {
        "name": "all",
        "domains": ["*"],
        # A request's own limit, which is the listener's at least.
        "request_body_buffer_limit": plan.buffer_bytes,
        "routes": [
            *lane_routes(plan, _NOBODY),
            decided,
            *_without_picker(plan, action),
            _undecided(plan),
        ],
        "include_request_attempt_count": True,
    }
    removed = [names.SERVER]
    if plan.config.cors is not None:
        host["typed_per_filter_config"] = cors.policy(plan.config.cors)
        # A replica may let in other pages than we do.
        removed += cors.ANSWER_HEADERS
    return {
        "name": "pools",
        "virtual_hosts": [host],
        "validate_clusters": False,
        "response_headers_to_remove": removed,
        "response_headers_to_add": [local_replies.ID_HEADER],
    }


def _without_picker(plan: EnvoyPlan, action: Json) -> list[Json]:
    """Where requests go when no picker answers and this is to be so. An engine's control paths stay
    closed."""
    if not plan.fails_open or plan.default_pool is None:
        return []
    engine = next(pool.engine for pool in plan.config.pools if pool.name == plan.default_pool)
    open_paths = OpenPaths((engine,), plan.config.passthrough)
    matches: list[tuple[Json, frozenset[str]]] = []
    matches += [({"path": path}, methods) for path, methods in open_paths.exact.items()]
    for pattern, methods in open_paths.patterns():
        matches.append(({"safe_regex": {"regex": pattern}}, methods))
    route: Json = {"cluster": names.cluster_name(plan.default_pool), **action}
    # What clients identify themselves by is not for replicas that have a key of their own.
    removed = list(names.CREDENTIALS) if plan.has_own_key else []
    return [
        {
            "match": {**match, "headers": [_one_of(methods)]},
            "route": route,
            "request_headers_to_remove": removed,
        }
        for match, methods in matches
    ]


def _one_of(methods: frozenset[str]) -> Json:
    return {
        "name": ":method",
        "string_match": {"safe_regex": {"regex": "|".join(sorted(methods))}},
    }


def _undecided(plan: EnvoyPlan) -> Json:
    """Every other request, until it is decided. CORS holds only on routes to a cluster; its idle
    time is that of an upload."""
    route: Json = {
        "cluster": _NOBODY,
        "timeout": "0s",
        "idle_timeout": f"{plan.config.undecided_idle_s}s",
    }
    return {"match": {"prefix": "/"}, "route": route}


def _access_log() -> Json:
    return typed(
        "envoy.access_loggers.http_grpc",
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": "penstock",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": ACCESS_LOG_CLUSTER}},
            "buffer_flush_interval": f"{access_log.FLUSH_S}s",
            "buffer_size_bytes": access_log.BUFFER_BYTES,
        },
    )
