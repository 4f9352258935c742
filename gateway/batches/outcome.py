"""What an answer to a line means, and how it stands in the output. Pure."""

from __future__ import annotations

import enum
import secrets
from collections.abc import Mapping
from typing import Final

import orjson
from msgspec import Struct

from gateway.batches.records import Used

EXPIRED: Final = (
    "batch_expired",
    "This request could not be executed before the completion window expired.",
)
CANCELLED: Final = ("batch_cancelled", "The batch was cancelled before this request was executed.")
LOST: Final = ("request_failed", "The request was tried several times, and got no answer.")
_LONGEST_WAIT_S: Final = 60.0
_LIMITED: Final = frozenset({"rate_limit_exceeded", "insufficient_quota"})
_PASSING: Final = frozenset({408, 425, 500, 502, 503, 504, 529})
"""Statuses with which another try may do better."""


class Because(enum.Enum):
    """Why a line is sent again."""

    SATURATED = "saturated"
    """There is no idle capacity."""
    LIMITED = "limited"
    """Its tenant is at a limit."""
    DOWN = "down"
    """Nothing can serve it now."""
    FAILED = "failed"
    """The try failed; so many may."""


class Again(Struct, frozen=True):
    """The line is sent again."""

    because: Because
    after_s: float = 0.0
    """As the answer asks; 0: it says nothing."""
    final: bytes = b""
    """Its line of the error file, if there are no more tries."""


class Answered(Struct, frozen=True):
    """The line is done."""

    line: bytes
    """Of the output or the error file, with its end."""
    succeeded: bool
    used: Used = Used()


Outcome = Again | Answered


def outcome_of(custom_id: str, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """Of an answer over HTTP. ``headers``: by lower-case name."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if 200 <= status < 300:
        if not isinstance(document, dict):
            return Again(Because.FAILED, final=not_answered(custom_id, LOST))
        return Answered(
            _line(custom_id, status, headers, body), succeeded=True, used=used_by(document)
        )
    text = body if isinstance(document, dict) else _as_error(status, body)
    line = _line(custom_id, status, headers, text)
    code = _code(document)
    after_s = _seconds(headers.get("retry-after", ""))
    if status == 429 and headers.get("x-should-retry", "") != "false":
        because = Because.LIMITED if code in _LIMITED else Because.SATURATED
        return Again(because, after_s)
    if status == 503 and code in ("no_endpoints", "shutting_down", "limits_unavailable"):
        return Again(Because.DOWN, after_s)
    # After a start nobody serves a model until the replicas have been read.
    if status in _PASSING or code == "model_not_found":
        return Again(Because.FAILED, after_s, line)
    return Answered(line, succeeded=False)


def refused(custom_id: str, message: str, param: str) -> Answered:
    """A line that is not sent at all."""
    error = {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": "invalid_request",
    }
    body = orjson.dumps({"error": error})
    return Answered(_line(custom_id, 400, {}, body), succeeded=False)


def not_answered(custom_id: str, why: tuple[str, str]) -> bytes:
    """The line of the error file of a request that got no answer."""
    error = {"code": why[0], "message": why[1]}
    document = {"id": _id(), "custom_id": custom_id, "response": None, "error": error}
    return orjson.dumps(document) + b"\n"


def used_by(document: Mapping[str, object]) -> Used:
    """Tokens as an answer reports them, in the words of either API."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return Used()
    return Used(
        _count(usage, "prompt_tokens", "input_tokens"),
        _detail(usage, "cached_tokens", "prompt_tokens_details", "input_tokens_details"),
        _count(usage, "completion_tokens", "output_tokens"),
        _detail(usage, "reasoning_tokens", "completion_tokens_details", "output_tokens_details"),
    )


def _count(counts: Mapping[str, object], *keys: str) -> int:
    for key in keys:
        value = counts.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _detail(usage: Mapping[str, object], key: str, *groups: str) -> int:
    for group in groups:
        details = usage.get(group)
        if isinstance(details, dict):
            return _count(details, key)
    return 0


def _line(custom_id: str, status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """An answer with its body as it came, unless that has line breaks."""
    if b"\n" in body or b"\r" in body:
        body = orjson.dumps(orjson.loads(body))
    head = orjson.dumps({"id": _id(), "custom_id": custom_id})[:-1]
    request_id = orjson.dumps(headers.get("x-request-id", ""))
    return b'%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}\n' % (
        *(head, status, request_id),
        body,
    )


def _as_error(status: int, body: bytes) -> bytes:
    message = body[:1000].decode(errors="replace") or f"status {status}"
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    return orjson.dumps({"error": error})


def _code(document: object) -> str:
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def _seconds(text: str) -> float:
    try:
        return min(max(float(text), 0.0), _LONGEST_WAIT_S)
    except ValueError:
        return 0.0


def _id() -> str:
    return f"batch_req_{secrets.token_hex(12)}"
