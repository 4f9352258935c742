"""Envoy's HTTP filters, in order: cors where pages are let in, Lua, jwt_authn where tokens are
accepted, ext_proc, router.

What every request needs is done outside of Lua, which costs several times as much. The Lua filter
alone reads responses. Envoy's json_to_metadata would read an answer as a whole, and
13 MB of embeddings stop its worker, with all its streams, for most of a second.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from gateway.envoy.cors import cors_filter
from gateway.envoy.jwt import authentication
from gateway.envoy.matching import SKIP, header_input, skipping
from gateway.envoy.message import Json, http_filter, typed
from gateway.envoy.plan import PICKER_CLUSTER, EnvoyPlan
from picker import names
from picker.request.response_ids import ALPHABET
from picker.server import wire

_LUA: Final = (
    "events.lua",
    "answers.lua",
    "rename.lua",
    "response_ids.lua",
    "tokens.lua",
    "stream.lua",
    "filters.lua",
)

_LEGIBLE_ID: Final = "[A-Za-z0-9_.:/=+@~-]{0,128}"
"""Ids that requests.lua leaves as they are."""


def chain(plan: EnvoyPlan) -> list[Json]:
    """The HTTP filters of the client-facing listener."""
    forwarded = [names.LB_NAMESPACE, names.SUBSET_NAMESPACE]
    if plan.jwt is not None:
        forwarded.append(names.JWT_NAMESPACE)
    return [
        *([cors_filter()] if plan.config.cors is not None else []),
        _odd_requests(),
        http_filter(
            "lua",
            "lua.v3.Lua",
            default_source_code={"inline_string": lua_source()},
        ),
        _response_ids(),
        *([authentication(plan.jwt)] if plan.jwt is not None else []),
        _ext_proc(plan, forwarded),
        http_filter("router", "router.v3.Router"),
    ]


def without_denied_headers(keep: tuple[str, ...] = ()) -> Json:
    """For the connection manager: request headers go before anything else reads them."""
    # Usage is read from the response's text, so it must not come compressed.
    removed = (*(name for name in names.CLIENT_MAY_NOT_SET if name not in keep), "accept-encoding")
    return typed(
        "envoy.http.early_header_mutation.header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[{"remove": name} for name in removed],
    )


def _odd_requests() -> Json:
    """For CONNECT, and for ids that cannot be written into a message."""
    ordinary = [
        _matches(names.REQUEST_ID, {"safe_regex": {"google_re2": {}, "regex": _LEGIBLE_ID}}),
        {"not_matcher": _matches(":method", {"exact": "CONNECT"})},
    ]
    return skipping(
        http_filter(
            "lua.requests",
            "lua.v3.Lua",
            default_source_code={"inline_string": _source("requests.lua")},
        ),
        _skip_where({"and_matcher": {"predicate": ordinary}}),
    )


def _response_ids() -> Json:
    """For whole answers of the Responses API, on its paths in Azure's spelling too: which path the
    replica gets is decided later."""
    path = _matches(":path", {"contains": "/responses"})
    return skipping(
        http_filter(
            "lua.responses",
            "lua.v3.Lua",
            default_source_code={"inline_string": _source("response_ids.lua", "responses.lua")},
        ),
        _skip_where({"not_matcher": path}),
    )


def _matches(header: str, value: Json) -> Json:
    """A predicate on a request header. ``value``: a StringMatcher."""
    found = header_input("HttpRequestHeaderMatchInput", header)
    return {"single_predicate": {"input": found, "value_match": value}}


def _skip_where(predicate: Json) -> Json:
    return {"matcher_list": {"matchers": [{"predicate": predicate, "on_match": {"action": SKIP}}]}}


def lua_source() -> str:
    """The Lua filter that reads every response."""
    return _source(*_LUA)


def _source(*modules: str) -> str:
    folder = files("gateway.envoy")
    source = "\n".join(folder.joinpath(name).read_text("utf-8") for name in modules)
    return source.replace("--[[ALPHABET]]", ALPHABET)


def _ext_proc(plan: EnvoyPlan, forwarded: list[str]) -> Json:
    return http_filter(
        "ext_proc",
        "ext_proc.v3.ExternalProcessor",
        grpc_service={
            "envoy_grpc": {"cluster_name": PICKER_CLUSTER},
            "timeout": "0s",
        },
        failure_mode_allow=plan.fails_open,
        status_on_error={"code": "ServiceUnavailable"},
        message_timeout=f"{plan.config.picker.decision_timeout_s}s",
        # What the picker may ask for, for a request that waits for its pool. The picker knows how
        # long that may be; here it would change with a new listener only.
        max_message_timeout=f"{wire.MOST_S}s",
        # For requests that may be evicted: the picker hears when their answers begin.
        allow_mode_override=True,
        processing_mode={
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "request_trailer_mode": "SKIP",
            "response_header_mode": "SKIP",
            "response_body_mode": "NONE",
            "response_trailer_mode": "SKIP",
        },
        # The picker may set the host, for replicas behind a proxy that goes by names.
        mutation_rules={"allow_envoy": True, "allow_all_routing": True},
        metadata_options={
            "forwarding_namespaces": {"untyped": forwarded},
            "receiving_namespaces": {
                "untyped": [names.LB_NAMESPACE, names.PENSTOCK_NAMESPACE],
            },
        },
    )
