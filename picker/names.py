"""Header, metadata and filter names of the Endpoint Picker protocol (GIE proposal 004) and ours."""

from __future__ import annotations

from typing import Final

LB_NAMESPACE: Final = "envoy.lb"
SUBSET_NAMESPACE: Final = "envoy.lb.subset_hint"
SUBSET_KEY: Final = "x-gateway-destination-endpoint-subset"
DESTINATION: Final = "x-gateway-destination-endpoint"
"""Request header and ``envoy.lb`` metadata key: ``ip:port[,ip:port...]``, best first."""
SERVED: Final = "x-gateway-destination-endpoint-served"
SCORES: Final = "x-gateway-destination-endpoint-scores"

# The newer name wins when a request carries both.
OBJECTIVE: Final = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
FAIRNESS_ID: Final = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
TTFT_OBJECTIVE_MS: Final = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
TPOT_OBJECTIVE_MS: Final = ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")
MODEL_REWRITE: Final = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")

SHOULD_RETRY: Final = "x-should-retry"
DROPPED_REASON: Final = "x-llm-d-request-dropped-reason"
CONDITIONAL_DECODE: Final = "prefer"
SESSION_ID: Final = "x-session-id"
AGENT_ID: Final = "x-agent-id"
SESSION_TOKEN: Final = "x-session-token"  # noqa: S105 - a header's name
CLAMPED: Final = "x-max-tokens-clamped"
"""Response header: the bound of each answer that limits have put in the place of the client's."""
SERVED_BY: Final = "x-penstock-endpoint"
"""Response header: the replica that has served."""
PREDICTED_TTFT_MS: Final = "x-penstock-predicted-ttft-ms"
"""Response header: milliseconds from the request's arrival to its first token, as predicted for the
first choice; missing where another replica has served."""
REQUEST_ID: Final = "x-request-id"
ANTHROPIC_REQUEST_ID: Final = "request-id"
"""The same in responses, where Anthropic's clients look for it."""
ANTHROPIC_VERSION: Final = "anthropic-version"
"""Request header of Anthropic's clients."""
SERVER: Final = "server"
"""Response header that is not passed on: it names the replica's software."""
AUTHORITY: Final = ":authority"
CREDENTIALS: Final = ("authorization", "x-api-key", "api-key", "proxy-authorization")
"""Request headers in which clients of the APIs identify themselves."""
ORIGINAL_PATHS: Final = ("x-original-path", "x-forwarded-path")

PENSTOCK_NAMESPACE: Final = "penstock"
"""Dynamic metadata of our own: what the Lua filter and the access log need of the decision."""
ASKED: Final = "asked"
"""Key in it: the id of a request that is being decided; ``id`` once Envoy has the decision."""
HANDED_OVER: Final = "handed_over"
"""Key in it: tenant of a request that another process of this gateway answers."""
TICKET: Final = "ticket"
"""Key in it: what settles the request's limits."""
RESPONSE_HEADERS: Final = "response_headers"
"""Key in it: headers by name that are set on the response."""
ANSWER_DETAILS: Final = "answered_by_the_endpoint_picker"
"""In the response code details of what the picker answers itself. Envoy's own details may quote
the path of the picker's socket, so these are words that no path has."""
LUA_NAMESPACE: Final = "penstock.lua"
"""Dynamic metadata that the Lua filter leaves for the access log."""
JWT_NAMESPACE: Final = "envoy.filters.http.jwt_authn"
"""Dynamic metadata that Envoy's filter of that name leaves, under the two keys below."""
CLAIMS: Final = "claims"
"""What a verified token says."""
CLAIMS_FAILED: Final = "failed"
"""Why a token was not good: ``code`` and ``message``."""
SERVED_NAMESPACE: Final = "penstock.served"
"""Dynamic metadata with the ``address`` of the replica that is tried."""
TRIES_NAMESPACE: Final = "penstock.tries"
"""Dynamic metadata about the tries of a request before the last one."""
POOL_HEADER: Final = "x-penstock-pool"
"""Chooses the Envoy cluster; set by the decision, removed before the replica sees it."""
CALLER: Final = "x-penstock-caller"
"""Request header for another process of this gateway: tenant, key's id and user, each quoted as in
a URL, with semicolons between. The picker sets it."""
BATCH_LINE: Final = "x-penstock-batch-line"
"""Request header of a line of a batch: the gateway's own key for these, then as in `CALLER`."""
MAX_RETRIES: Final = "x-envoy-max-retries"
RETRIED_STATUSES: Final = "x-envoy-retriable-status-codes"
ATTEMPT: Final = "x-envoy-attempt-count"

CLIENT_MAY_NOT_SET: Final = (
    DESTINATION,
    SUBSET_KEY,
    POOL_HEADER,
    CALLER,
    BATCH_LINE,
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    MAX_RETRIES,
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    RETRIED_STATUSES,
    ATTEMPT,
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-original-path",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
)
"""Request headers removed at the edge: a client could steer routing or retries with them, or a
replica behind a framework that lets them stand for the method or the path."""


BATCHES_CLUSTER: Final = "penstock_batches"
"""The Envoy cluster of the process that serves files and batches."""


def cluster_name(pool: str) -> str:
    """The Envoy cluster of a pool: the value of the pool header."""
    return f"pool_{pool}"
