"""Changes of a JSON body. A changed body changes only where it must."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from picker.bodies.members import members
from picker.bodies.reading import Unreadable
from picker.request.rejection import Reason

_STREAM_OPTIONS: Final = re.compile(rb'"stream_options"\s*+:\s*+(?:null|\{[^{}]*+\})')
_INCLUDE_USAGE: Final = b'"stream_options":{"include_usage":true}'
_EMPTY_OBJECT: Final = re.compile(rb"\s*+\}")
_MAX_TRIES: Final = 3
"""Places looked at before every member is."""


@dataclass(frozen=True, slots=True)
class Edits:
    """What is to change."""

    model: str | None = None
    """The model's name; None: as it is."""
    ask_for_usage: bool = False
    """``stream_options.include_usage`` is set."""

    def __bool__(self) -> bool:
        return self.model is not None or self.ask_for_usage


def edit(body: bytes, edits: Edits) -> bytes | Unreadable:
    """The changed body of a JSON object that has not been read yet."""
    return edited(body, orjson.loads(body), edits)


def edited(body: bytes, document: Mapping[str, object], edits: Edits) -> bytes | Unreadable:
    """``body``, which reads as ``document``, changed."""
    try:
        if edits.model is not None:
            body = with_model(body, document, edits.model)
        if edits.ask_for_usage:
            body = with_usage(body, document)
    except orjson.JSONEncodeError:  # it was JSON, so only its depth can be wrong
        return Unreadable(
            Reason.INVALID_REQUEST, "stream_options are nested too deeply.", "stream_options"
        )
    return body


def with_model(body: bytes, document: Mapping[str, object], served: str) -> bytes:
    """``body``, which reads as ``document``, with the top-level ``model`` replaced by ``served``,
    or added."""
    if "model" not in document:
        return _with_member(body, b'"model":' + orjson.dumps(served))
    asked = re.escape(orjson.dumps(document["model"]))
    pattern = re.compile(rb'"model"\s*+:\s*+' + asked)
    return _with_value(body, pattern, "model", served)


def with_usage(body: bytes, document: Mapping[str, object]) -> bytes:
    """``body``, which reads as ``document``, with ``stream_options.include_usage`` set; other
    stream options stay."""
    if "stream_options" not in document:
        return _with_member(body, _INCLUDE_USAGE)
    options = document["stream_options"]
    wanted = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    if "continuous_usage_stats" in wanted:
        wanted["continuous_usage_stats"] = False  # had no effect without include_usage
    return _with_value(body, _STREAM_OPTIONS, "stream_options", wanted)


def _with_value(body: bytes, pattern: re.Pattern[bytes], key: str, value: object) -> bytes:
    """``body`` with the member at one of the pattern's matches replaced, if that is what it takes
    for it to read so; else with every member of that name replaced."""
    member = b'"%s":%s' % (key.encode(), orjson.dumps(value))
    matches = list(pattern.finditer(body))
    for match in matches[: -_MAX_TRIES - 1 : -1]:
        rest = member + body[match.end() :]
        if body[match.start() - 1 : match.start()] != b"\\" and _reads(rest, key, value):
            return body[: match.start()] + rest
    parts: list[bytes] = []  # written with escapes, or in too many places
    behind = 0
    for one in members(body):
        if one.key == key:
            parts += (body[behind : one.start], member)
            behind = one.end
    return b"".join((*parts, body[behind:]))


def _reads(rest: bytes, key: str, value: object) -> bool:
    """``rest``, the end of a body, closes the outermost object, and in it ``key`` is ``value``:
    what it starts with is at the top level, and no later member overrules it."""
    try:
        return bool(orjson.loads(b"{" + rest)[key] == value)
    except orjson.JSONDecodeError:
        return False


def _with_member(body: bytes, member: bytes) -> bytes:
    start = body.index(b"{") + 1
    comma = b"" if _EMPTY_OBJECT.match(body, start) else b","
    return b"".join((body[:start], member, comma, body[start:]))
