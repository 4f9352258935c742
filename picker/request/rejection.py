"""The one table of how a request can be turned away, and its wire form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import orjson

from picker import names
from picker.request.caller import Caller


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """HTTP status, OpenAI error ``type`` and ``code``, and the dropped-reason header."""

    status: int
    type: str
    code: str
    dropped_reason: str | None = None


class Reason(Enum):
    """Every rejection the picker can give (PROTOCOL: rejections)."""

    INVALID_REQUEST = ErrorRow(400, "invalid_request_error", "invalid_request")
    INVALID_JSON = ErrorRow(400, "invalid_request_error", "invalid_json")
    MISSING_MODEL = ErrorRow(400, "invalid_request_error", "model_required")
    CONTEXT_LENGTH = ErrorRow(400, "invalid_request_error", "context_length_exceeded")
    INVALID_API_KEY = ErrorRow(401, "invalid_request_error", "invalid_api_key")
    MODEL_NOT_ALLOWED = ErrorRow(403, "invalid_request_error", "model_not_allowed")
    PATH_NOT_ALLOWED = ErrorRow(403, "invalid_request_error", "path_not_allowed")
    NOT_METERED = ErrorRow(403, "invalid_request_error", "path_not_metered")
    BACKGROUND = ErrorRow(403, "invalid_request_error", "background_not_metered")
    TENANT_DISABLED = ErrorRow(403, "invalid_request_error", "tenant_disabled")
    UNKNOWN_TENANT = ErrorRow(403, "invalid_request_error", "unknown_tenant")
    MODEL_NOT_FOUND = ErrorRow(404, "invalid_request_error", "model_not_found")
    RESPONSE_NOT_FOUND = ErrorRow(404, "invalid_request_error", "response_not_found")
    PATH_NOT_FOUND = ErrorRow(404, "invalid_request_error", "path_not_found")
    METHOD_NOT_ALLOWED = ErrorRow(405, "invalid_request_error", "method_not_allowed")
    NOT_CACHED = ErrorRow(412, "invalid_request_error", "not_cached")
    TOO_LARGE = ErrorRow(413, "invalid_request_error", "request_too_large")
    UNSUPPORTED_ENCODING = ErrorRow(415, "invalid_request_error", "unsupported_content_encoding")
    TOO_MANY_HEADERS = ErrorRow(431, "invalid_request_error", "request_headers_too_large")
    REQUESTS_LIMITED = ErrorRow(429, "requests", "rate_limit_exceeded")
    TOKENS_LIMITED = ErrorRow(429, "tokens", "rate_limit_exceeded")
    QUOTA_EXCEEDED = ErrorRow(429, "insufficient_quota", "insufficient_quota")
    OVERLOADED = ErrorRow(429, "server_error", "overloaded", "rejected-saturated")
    QUEUE_FULL = ErrorRow(429, "server_error", "queue_full", "rejected-saturated")
    QUEUE_TIMEOUT = ErrorRow(429, "server_error", "queue_timeout", "rejected-ttl-expired")
    EVICTED = ErrorRow(429, "server_error", "evicted", "evicted")
    LIMITS_UNAVAILABLE = ErrorRow(503, "server_error", "limits_unavailable")
    NO_ENDPOINTS = ErrorRow(503, "server_error", "no_endpoints", "rejected-no-endpoints")
    SHUTTING_DOWN = ErrorRow(503, "server_error", "shutting_down", "rejected-shutting-down")
    INTERNAL = ErrorRow(500, "server_error", "internal_error")


class Rejection(Exception):  # noqa: N818 - a request's end, not a program's error
    """Ends a request with an error answer."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        param: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        caller: Caller | None = None,
    ) -> None:
        """``headers``: of the answer, beside those that every rejection has. ``caller``: known to
        the gate although it is turned away, for the log."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param
        self.caller = caller
        self._headers = headers

    @property
    def row(self) -> ErrorRow:
        """The row of the table this rejection stands on."""
        return self.reason.value

    def headers(self) -> list[tuple[str, str]]:
        """Response headers of the answer."""
        headers = [("content-type", "application/json")]
        if self.row.dropped_reason is not None:
            headers.append((names.DROPPED_REASON, self.row.dropped_reason))
        headers.extend(self._headers)
        return headers

    def body(self, *, anthropic: bool) -> bytes:
        """Error object in the shape that the client's API uses."""
        row = self.row
        if anthropic:
            error = {"type": _anthropic_type(row.status), "message": self.message}
            return orjson.dumps({"type": "error", "error": error})
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": row.type,
                    "param": self.param,
                    "code": row.code,
                }
            }
        )


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _anthropic_type(status: int) -> str:
    return _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
