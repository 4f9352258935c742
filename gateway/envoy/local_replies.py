"""Envoy's own errors, in the shape that the client's API gives errors. Each says what was wrong.

Most conditions are on Envoy's response code details, which `picker.server.refusals` names: the
log says the same as the client's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.envoy.message import TYPE, Json
from picker import names
from picker.server.refusals import CODES

ID_HEADER: Final[Json] = {
    "header": {
        "key": names.ANTHROPIC_REQUEST_ID,
        "value": f"%REQ({names.REQUEST_ID.upper()})%",
    },
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
"""The request's id again, where Anthropic's clients look for it."""
_NOT_AGAIN: Final[Json] = {
    "header": {"key": names.SHOULD_RETRY, "value": "false"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
"""OpenAI's and Anthropic's clients repeat a 502 twice, and would break two replicas each time."""
_ANTHROPIC_PATH: Final = "/v1/messages"
_ANTHROPIC_TYPES: Final = {
    408: "timeout_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}
_DECIDED: Final = (
    f"'{names.PENSTOCK_NAMESPACE}' in metadata.filter_metadata"
    f" && 'id' in metadata.filter_metadata['{names.PENSTOCK_NAMESPACE}']"
)


@dataclass(frozen=True, slots=True)
class LocalReply:
    """A kind of error that Envoy answers itself."""

    condition: str
    """In CEL, of the response that Envoy is about to give."""
    status: int
    code: str
    message: str
    """With Envoy's format operators."""
    may_repeat: bool = True
    """False: clients are told not to send the request again by themselves."""


def _refused(code: str) -> str:
    listed = ", ".join(f"'{details}'" for details, its in CODES.items() if its == code)
    return f"response.code_details in [{listed}]"


_REPLIES: Final = (
    LocalReply(
        "response.code_details.startsWith('ext_proc_error')",
        503,
        "picker_unavailable",
        "The endpoint picker does not answer; try again shortly.",
    ),
    LocalReply(
        "response.code == 413",
        413,
        "request_too_large",
        "The request body is larger than this gateway accepts.",
    ),
    LocalReply(
        f"{_refused('picker_unavailable')} && !({_DECIDED})",
        503,
        "picker_unavailable",
        "The endpoint picker does not answer; try again shortly.",
    ),
    LocalReply(
        _refused("upgrade_not_supported"),
        403,
        "upgrade_not_supported",
        "This gateway serves no WebSockets and no other protocol to upgrade to: the request asks"
        " for Upgrade: %REQ(UPGRADE)%. Send it as a plain HTTP request; answers are streamed as"
        " server-sent events.",
    ),
    LocalReply(
        _refused("http_version_not_supported"),
        426,
        "http_version_not_supported",
        "This gateway needs HTTP/1.0 or newer, with the version at the end of the request line.",
    ),
    LocalReply(
        "request.method == 'CONNECT'",
        405,
        "method_not_allowed",
        "This gateway is no forward proxy.",
    ),
    LocalReply(
        _refused("host_required"),
        400,
        "host_required",
        "The request has no Host header.",
    ),
    LocalReply(
        _refused("invalid_path"),
        400,
        "invalid_path",
        "The target of the request cannot be read: it must be a path that starts with /, without a"
        " fragment and without an escaped NUL.",
    ),
    LocalReply(
        "response.code == 431 || " + _refused("request_headers_too_large"),
        431,
        "request_headers_too_large",
        "The request's headers are too large: at most 150 of them, and 60 KiB with the target.",
    ),
    LocalReply(
        _refused("invalid_transfer_encoding"),
        400,
        "invalid_transfer_encoding",
        "The body cannot be told from what follows it: send either Content-Length, or"
        " Transfer-Encoding: chunked and no other encoding.",
    ),
    LocalReply(
        "response.code_details.startsWith('http1.') || response.code_details.startsWith('http2.')",
        400,
        "invalid_http",
        "The request is not valid HTTP (%RESPONSE_CODE_DETAILS%).",
    ),
    LocalReply(
        f"response.code_details == 'stream_idle_timeout' && {_DECIDED}",
        504,
        "upstream_timeout",
        "The replica sent nothing for too long.",
    ),
    LocalReply(
        "response.code == 408",
        408,
        "request_timeout",
        "The request did not arrive in time: its body stalled, or took too long as a whole.",
    ),
    LocalReply(
        "response.code == 502 && response.code_details == 'lua_response'",  # of tries.lua
        502,
        "upstream_error",
        "Two replicas broke the connection off after they had received this request, so it is not"
        " tried on another one. It may be the request that breaks them.",
        may_repeat=False,
    ),
    LocalReply(
        "response.code == 503"
        " && response.code_details.startsWith('upstream_reset_before_response_started{')"
        " && !response.code_details.contains('connection_failure')"
        " && !response.code_details.contains('connection_timeout')",
        502,
        "upstream_error",
        "The replica broke the connection off before it answered.",
    ),
    LocalReply(
        "response.code == 503 && (response.code_details.startsWith('upstream')"
        " || response.code_details in ['no_healthy_upstream', 'cluster_not_found'])",
        503,
        "no_endpoints",
        "No replica could be reached for this request.",
    ),
    LocalReply(
        "response.code == 503 && response.code_details.startsWith('overload')",
        503,
        "overloaded",
        "This gateway has too much to do just now; try again shortly.",
    ),
    LocalReply(
        "response.code == 503",
        503,
        "gateway_error",
        "The gateway could not process this request.",
    ),
    LocalReply(
        "response.code == 504",
        504,
        "upstream_timeout",
        "The replica did not answer in time.",
    ),
    LocalReply(
        "response.code >= 500",
        502,
        "upstream_error",
        "The replica failed while answering.",
    ),
    LocalReply(
        "response.code >= 400",
        400,
        "bad_request",
        "The request could not be understood (%RESPONSE_CODE_DETAILS%).",
    ),
)
"""The first that fits is taken."""


def mappers() -> Json:
    """A rule for each kind of error and API; answers of the picker pass unchanged."""
    replies = [
        _mapper(reply, anthropic=anthropic) for reply in _REPLIES for anthropic in (True, False)
    ]
    return {"mappers": [_OPTIONS_OF_THE_SERVER, *replies]}


def _mapper(reply: LocalReply, *, anthropic: bool) -> Json:
    status = reply.status
    expression = f"!response.code_details.contains('{names.ANSWER_DETAILS}') && ({reply.condition})"
    if anthropic:
        expression += f" && request.url_path.startsWith('{_ANTHROPIC_PATH}')"
        kind = _ANTHROPIC_TYPES.get(
            status, "invalid_request_error" if status < 500 else "api_error"
        )
        body: Json = {"type": "error", "error": {"type": kind, "message": reply.message}}
    else:
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": reply.message, "type": kind, "param": None, "code": reply.code}
        body = {"error": error}
    return {
        "filter": _when(expression),
        "status_code": status,
        "body_format_override": {"json_format": body},
        "headers_to_add": [ID_HEADER] if reply.may_repeat else [ID_HEADER, _NOT_AGAIN],
    }


def _when(expression: str) -> Json:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": TYPE + "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": expression,
            },
        }
    }


_OPTIONS_OF_THE_SERVER: Final[Json] = {
    # ``OPTIONS *`` asks whether there is a server. Envoy refuses every target that is no path.
    "filter": _when(
        "request.method == 'OPTIONS' && response.code_details == 'absolute_path_rejected'"
    ),
    "status_code": 204,
    "body": {"inline_string": ""},
    "headers_to_add": [
        {"header": {"key": "allow", "value": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"}}
    ],
}
