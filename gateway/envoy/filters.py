"""Envoy's HTTP filters, in order: Lua, jwt_authn where tokens are taken, ext_proc,
json_to_metadata, sse_to_metadata, router.

Everything that reads token usage from a response is in this module and ``filters.lua``.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from gateway.envoy.jwt import Jwt, authentication
from gateway.envoy.message import TYPE, Json, http_filter
from picker import names

_MAX_EVENT_BYTES: Final = 10_485_760
_JSON_CONTENT: Final = r"(?i)application/json\s*(;.*)?"

_USAGE_PATHS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    # metadata key: where engines put it, in OpenAI's, the Responses API's, Anthropic's and SGLang's
    # shapes
    "prompt": (
        ("usage", "prompt_tokens"),
        ("meta_info", "prompt_tokens"),
    ),
    "input": (("usage", "input_tokens"),),
    "output": (
        ("usage", "completion_tokens"),
        ("usage", "output_tokens"),
        ("meta_info", "completion_tokens"),
    ),
    "cached": (
        ("usage", "prompt_tokens_details", "cached_tokens"),
        ("usage", "input_tokens_details", "cached_tokens"),
        ("meta_info", "cached_tokens"),
    ),
    "reasoning": (
        ("usage", "completion_tokens_details", "reasoning_tokens"),
        ("usage", "output_tokens_details", "reasoning_tokens"),
    ),
    # Anthropic's "input" leaves these two out
    "cache_read": (("usage", "cache_read_input_tokens"),),
    "cache_creation": (("usage", "cache_creation_input_tokens"),),
}
_EVENT_PARENTS: Final[tuple[tuple[str, ...], ...]] = ((), ("response",), ("message",))
"""In streams OpenAI's usage is at the top, in ``response.completed`` or in ``message_start``."""
_PREMATURE: Final = ("message", "usage", "output_tokens")
"""``message_start`` tells 0 or 1: a stream that is broken off would count as that."""


def chain(decision_timeout_s: float, jwt: Jwt | None = None, *, fail_open: bool) -> list[Json]:
    """The HTTP filters of the client-facing listener."""
    forwarded = [names.LB_NAMESPACE, names.SUBSET_NAMESPACE]
    if jwt is not None:
        forwarded.append(names.JWT_NAMESPACE)
    return [
        http_filter(
            "lua",
            "lua.v3.Lua",
            default_source_code={"inline_string": lua_source()},
        ),
        *([authentication(jwt)] if jwt is not None else []),
        _ext_proc(decision_timeout_s, forwarded, fail_open=fail_open),
        http_filter(
            "json_to_metadata",
            "json_to_metadata.v3.JsonToMetadata",
            response_rules={
                "rules": [_rule(key, path) for key, path in _usage_paths(((),))],
                "allow_content_types_regex": {"regex": _JSON_CONTENT},
            },
        ),
        http_filter(
            "sse_to_metadata",
            "sse_to_metadata.v3.SseToMetadata",
            response_rules={
                "max_event_size": _MAX_EVENT_BYTES,
                "content_parser": {
                    "name": "envoy.content_parsers.json",
                    "typed_config": {
                        "@type": TYPE + "envoy.extensions.content_parsers.json.v3"
                        ".JsonContentParser",
                        "rules": [
                            {"rule": _rule(key, path)} for key, path in _usage_paths(_EVENT_PARENTS)
                        ],
                    },
                },
            },
        ),
        http_filter("router", "router.v3.Router"),
    ]


def lua_source() -> str:
    """The Lua filter with the list of denied headers filled in."""
    source = files("gateway.envoy").joinpath("filters.lua").read_text("utf-8")
    denied = ", ".join(f'"{name}"' for name in names.CLIENT_MAY_NOT_SET)
    return source.replace("--[[DENIED]]", denied)


def local_replies() -> Json:
    """Envoy's own errors in the shape of the client's API; answers of the picker pass unchanged."""
    cases = (
        ("response.code_details.startsWith('ext_proc_error')", 503, "picker_unavailable"),
        ("response.code == 413", 413, "request_too_large"),
        ("response.code_details == 'direct_response'", 503, "picker_unavailable"),
        (_UPSTREAM_UNREACHABLE, 503, "no_endpoints"),
        ("response.code == 503", 503, "gateway_error"),
        ("response.code == 504", 504, "upstream_timeout"),
        ("response.code == 408", 408, "request_timeout"),
        ("response.code >= 500", 502, "upstream_error"),
        ("response.code >= 400", 400, "bad_request"),
    )
    return {
        "mappers": [
            _reply(condition, status, code, anthropic=anthropic)
            for condition, status, code in cases
            for anthropic in (True, False)
        ]
    }


_UPSTREAM_UNREACHABLE: Final = (
    "response.code == 503 && (response.code_details.startsWith('upstream')"
    " || response.code_details in ['no_healthy_upstream', 'cluster_not_found'])"
)
_MESSAGES: Final = {
    "picker_unavailable": "The endpoint picker does not answer; try again shortly.",
    "request_too_large": "The request body is larger than this gateway accepts.",
    "no_endpoints": "No replica could be reached for this request.",
    "gateway_error": "The gateway could not process this request.",
    "upstream_timeout": "The replica did not answer in time.",
    "request_timeout": "The request did not arrive in time.",
    "upstream_error": "The replica failed while answering.",
    "bad_request": "The request could not be understood.",
}
_ANTHROPIC_PATH: Final = "/v1/messages"
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    503: "overloaded_error",
}
PICKER_DETAILS: Final = "penstock"
"""Response code details of answers that the picker gave itself."""


def _reply(condition: str, status: int, code: str, *, anthropic: bool) -> Json:
    expression = f"!response.code_details.contains('{PICKER_DETAILS}') && {condition}"
    message = _MESSAGES[code]
    if anthropic:
        expression += f" && request.url_path.startsWith('{_ANTHROPIC_PATH}')"
        kind = _ANTHROPIC_TYPES.get(status, "api_error")
        body: Json = {"type": "error", "error": {"type": kind, "message": message}}
    else:
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        body = {"error": error}
    mapper: Json = {
        "filter": {
            "extension_filter": {
                "name": "envoy.access_loggers.extension_filters.cel",
                "typed_config": {
                    "@type": TYPE + "envoy.extensions.access_loggers.filters.cel.v3"
                    ".ExpressionFilter",
                    "expression": expression,
                },
            }
        },
        "body_format_override": {"json_format": body},
    }
    if status != 400:
        mapper["status_code"] = status
    return mapper


def _ext_proc(decision_timeout_s: float, forwarded: list[str], *, fail_open: bool) -> Json:
    return http_filter(
        "ext_proc",
        "ext_proc.v3.ExternalProcessor",
        grpc_service={
            "envoy_grpc": {"cluster_name": "penstock_picker"},
            "timeout": "0s",
        },
        failure_mode_allow=fail_open,
        status_on_error={"code": "ServiceUnavailable"},
        message_timeout=f"{decision_timeout_s}s",
        processing_mode={
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "request_trailer_mode": "SKIP",
            "response_header_mode": "SKIP",
            "response_body_mode": "NONE",
            "response_trailer_mode": "SKIP",
        },
        mutation_rules={"allow_envoy": True},
        metadata_options={
            "forwarding_namespaces": {"untyped": forwarded},
            "receiving_namespaces": {
                "untyped": [names.LB_NAMESPACE, names.PENSTOCK_NAMESPACE],
            },
        },
    )


def _usage_paths(parents: tuple[tuple[str, ...], ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (key, parent + path)
        for key, paths in _USAGE_PATHS.items()
        for parent in parents
        for path in paths
        if parent + path != _PREMATURE and (path[0] == "usage" or not parent)
    ]


def _rule(key: str, path: tuple[str, ...]) -> Json:
    return {
        "selectors": [{"key": part} for part in path],
        "on_present": {
            "metadata_namespace": names.USAGE_NAMESPACE,
            "key": key,
            "type": "NUMBER",
        },
    }
