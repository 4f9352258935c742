"""What the events of a stream say: their framing, which carry output, and which say that the engine
failed. On the fast path ``gateway/envoy/events.lua`` goes by the same signs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import orjson

_EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?:\r\n|\n|\r)")
"""Two ends of lines, each of which may be any of the three that the format allows."""
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_WHOLE_LINE: Final = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
_DONE: Final = b"[DONE]"
_UNNAMED: Final = ("", "message")
"""Names of an event that has none."""
_FAILURES: Final = frozenset({"error", "response.error", "response.failed", "response.cancelled"})
_CANCELLED: Final = "response.cancelled"
_BLAMING_CODES: Final = (400, 413, 422)
_BLAMING_TYPES: Final = ("invalid_request_error", "BadRequestError", "UnprocessableEntityError")
_LENGTHS: Final = frozenset({"max_output_tokens", "max_tokens", "length"})
"""Reasons for an incomplete response that is no failure: it has reached its bound."""


def event_ends(text: bytearray, start: int) -> Iterator[int]:
    """Where events end in ``text``, their empty lines included. A carriage return at the end of
    the text counts as a whole line end: a newline that follows it is an empty line of its own."""
    for match in _EVENT_END.finditer(text, start):
        yield match.end()


def documents(event: bytes) -> Iterator[tuple[str, object]]:
    """Name and JSON value of an event; several where it has lines of data that make no value
    together. None for what is not JSON; nothing for an event without data, or ``[DONE]``."""
    name, lines = "", []
    for line in _LINE_END.split(event):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    if name in _UNNAMED:
        name = ""
    payload = b"\n".join(lines).strip()
    if not payload or payload == _DONE:
        return
    document = parsed(payload)
    if document is not None or len(lines) == 1:
        yield name, document
        return
    for line in lines:
        part = parsed(line)
        if part is not None:
            yield name, part


def without(event: bytes, is_hidden: Callable[[object], bool]) -> bytes:
    """An event without documents that are hidden; nothing when no data is left."""
    lines = _WHOLE_LINE.findall(event)
    if all(is_hidden(document) for _, document in documents(event)) and not _has_more(lines):
        return b""
    return b"".join(line for line in lines if not is_hidden(parsed(_data(line) or b"")))


def _has_more(lines: Sequence[bytes]) -> bool:
    """There is data beside JSON, such as the end of the stream."""
    return any((_data(line) or b"").strip() == _DONE for line in lines)


def _data(line: bytes) -> bytes | None:
    field, _, value = line.partition(b":")
    return value if field == b"data" else None


def parsed(text: bytes) -> object:
    """None for what is not JSON: it passes, and reports nothing."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def is_content(name: str, document: object) -> bool:
    """An event of a stream that carries output, one token as a rule. ``name``: the event's, ""
    without one."""
    if not isinstance(document, dict) or is_failure(name, document):
        return False
    choices = document.get("choices")
    if isinstance(choices, list):
        return bool(choices) and not _opens_choice(choices[0])
    kind = name or document.get("type", "delta")
    # Anthropic's and the Responses API name their events, and only some are output.
    if not isinstance(kind, str) or not kind.endswith("delta") or kind == "message_delta":
        return False
    delta = document.get("delta")
    return not (isinstance(delta, dict) and delta.get("type") == "signature_delta")


def is_failure(name: str, document: object) -> bool:
    """An answer or event that says that the engine failed. An answer that ends at its bound has
    not."""
    if name in _FAILURES or not isinstance(document, dict):
        return name in _FAILURES
    kind = name or document.get("type")
    if (isinstance(kind, str) and kind in _FAILURES) or document.get("object") == "error":
        return True
    if document.get("error"):
        return True
    response = document.get("response")
    if kind == "response.incomplete":
        return not _reached_its_bound(response)
    if isinstance(response, dict) and response.get("error"):
        return True
    choices = document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and (
        first.get("finish_reason") == "error" or bool(first.get("error"))
    )


def blames_request(name: str, document: object) -> bool:
    """Of a failure: the engine says that it is the request's own, or somebody has cancelled it."""
    if not isinstance(document, dict):
        return False
    if _CANCELLED in (name, document.get("type")):
        return True
    response, error = document.get("response"), document.get("error")
    if not error and isinstance(response, dict):
        error = response.get("error")
    if document.get("object") == "error":
        error = document
    return isinstance(error, dict) and (
        error.get("code") in _BLAMING_CODES or error.get("type") in _BLAMING_TYPES
    )


def _reached_its_bound(response: object) -> bool:
    details = response.get("incomplete_details") if isinstance(response, Mapping) else None
    return isinstance(details, dict) and details.get("reason") in _LENGTHS


def _opens_choice(choice: object) -> bool:
    """A role and nothing else: no token is in it yet."""
    delta = choice.get("delta") if isinstance(choice, dict) else None
    if not isinstance(delta, dict) or delta.get("role") is None:
        return False
    return not any(value for key, value in delta.items() if key != "role")
