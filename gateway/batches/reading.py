"""What requests of the API say. Pure but for the request's own values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import orjson
from msgspec import Struct

from gateway.batches.lines import ENDPOINTS
from gateway.batches.problems import Refusal, invalid
from gateway.batches.records import Owner
from gateway.batches.store import Page
from picker import names

_WINDOW: Final = re.compile(r"([1-9][0-9]{0,6})(s|m|h|d)")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST_WINDOW_S: Final = 7 * 86_400
_MOST_BODY_BYTES: Final = 64 << 10
_MOST_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
_SHORTEST_KEEP_S, _LONGEST_KEEP_S = 3_600, 2_592_000


class Wanted(Struct, frozen=True):
    """A batch as a client asks for it."""

    input_file_id: str
    endpoint: str
    window: str
    window_s: int
    metadata: dict[str, str] | None
    output_expires_after_s: int | None


def owner_of(headers: Mapping[str, str]) -> Owner:
    """Who has sent a request: our Envoy says so, as the picker has told it."""
    given = headers.get(names.CALLER)
    if given is None:
        raise Refusal(500, "no_identity", "This socket takes requests through the gateway alone.")
    tenant, key, user = map(unquote, given.split(";"))
    return Owner(tenant, key, user)


def wanted_batch(body: bytes) -> Wanted:
    """Of POST /v1/batches. Raises Refusal."""
    if len(body) > _MOST_BODY_BYTES:
        raise Refusal(413, "request_too_large", f"The body is over {_MOST_BODY_BYTES} bytes.")
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, "invalid_json", f"The body is no JSON: {error}.") from error
    if not isinstance(given, dict):
        invalid("The body must be a JSON object.", code="invalid_json")
    endpoint = _text(given, "endpoint")
    if endpoint not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        invalid(
            f"There are no batches for {endpoint[:100]!r}: use one of {known}.", param="endpoint"
        )
    window = _text(given, "completion_window")
    return Wanted(
        input_file_id=_text(given, "input_file_id"),
        endpoint=endpoint,
        window=window,
        window_s=_window_s(window),
        metadata=_metadata(given.get("metadata")),
        output_expires_after_s=_keep_s(given.get("output_expires_after"), "output_expires_after"),
    )


def expires_after_s(fields: Mapping[str, str]) -> int | None:
    """Of an upload's form, where it has it in brackets or as JSON."""
    whole = fields.get("expires_after")
    if whole is not None:
        try:
            return _keep_s(orjson.loads(whole), "expires_after")
        except orjson.JSONDecodeError:
            invalid("expires_after is no JSON object.", param="expires_after")
    if "expires_after[seconds]" not in fields and "expires_after[anchor]" not in fields:
        return None
    seconds = fields.get("expires_after[seconds]", "")
    given = {
        "anchor": fields.get("expires_after[anchor]", "created_at"),
        "seconds": int(seconds) if re.fullmatch("[0-9]{1,9}", seconds) else seconds,
    }
    return _keep_s(given, "expires_after")


def page_of(query: Mapping[str, str], *, most: int, usual: int) -> Page:
    """Of a list. Raises Refusal."""
    limit, order = query.get("limit"), query.get("order", "desc")
    size = usual
    if limit is not None:
        size = int(limit) if re.fullmatch("[0-9]{1,6}", limit) else 0
        if not 1 <= size <= most:
            invalid(f"limit must be a whole number from 1 to {most}.", param="limit")
    if order not in ("asc", "desc"):
        invalid("order must be asc or desc.", param="order")
    return Page(query.get("after") or None, size, newest_first=order == "desc")


def _text(given: Mapping[str, object], key: str) -> str:
    value = given.get(key)
    if value is None:
        message = f"Missing required parameter: '{key}'."
        invalid(message, param=key, code="missing_required_parameter")
    if not isinstance(value, str):
        invalid(f"'{key}' must be a text.", param=key)
    return value


def _window_s(text: str) -> int:
    found = _WINDOW.fullmatch(text)
    length_s = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 0 < length_s <= _LONGEST_WINDOW_S:
        invalid(
            "completion_window must be 24h, or another time of at most 7d, such as 90m.",
            param="completion_window",
        )
    return length_s


def _metadata(given: object) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or len(given) > _MOST_PAIRS:
        invalid(f"metadata must be an object of at most {_MOST_PAIRS} texts.", param="metadata")
    found: dict[str, str] = {}
    for key, value in given.items():
        if len(key) > _LONGEST_KEY or not isinstance(value, str) or len(value) > _LONGEST_VALUE:
            invalid(
                f"metadata has keys of at most {_LONGEST_KEY} characters, and texts of at most"
                f" {_LONGEST_VALUE}.",
                param="metadata",
            )
        found[key] = value
    return found


def _keep_s(given: object, param: str) -> int | None:
    if given is None:
        return None
    seconds = given.get("seconds") if isinstance(given, dict) else None
    anchor = given.get("anchor") if isinstance(given, dict) else None
    whole = isinstance(seconds, int) and not isinstance(seconds, bool)
    if not whole or anchor != "created_at" or not _is_kept(seconds):
        invalid(
            f"{param} must have the anchor created_at, and {_SHORTEST_KEEP_S} to"
            f" {_LONGEST_KEEP_S} seconds.",
            param=param,
        )
    assert isinstance(seconds, int)
    return seconds


def _is_kept(seconds: object) -> bool:
    return isinstance(seconds, int) and _SHORTEST_KEEP_S <= seconds <= _LONGEST_KEEP_S
