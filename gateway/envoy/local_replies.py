"""Envoy's own errors, in the shape that the client's API gives errors."""

from __future__ import annotations

from typing import Final

from gateway.envoy.message import TYPE, Json
from picker import names

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
ID_HEADER: Final[Json] = {
    "header": {
        "key": names.ANTHROPIC_REQUEST_ID,
        "value": f"%REQ({names.REQUEST_ID.upper()})%",
    },
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
"""The request's id again, where Anthropic's clients look for it."""
_ANTHROPIC_PATH: Final = "/v1/messages"
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    503: "overloaded_error",
}


def mappers() -> Json:
    """A rule for each kind of error and API; answers of the picker pass unchanged."""
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


def _reply(condition: str, status: int, code: str, *, anthropic: bool) -> Json:
    expression = f"!response.code_details.contains('{names.ANSWER_DETAILS}') && {condition}"
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
        "headers_to_add": [ID_HEADER],
    }
    if status != 400:
        mapper["status_code"] = status
    return mapper
