"""Changes of a JSON body. A changed body changes only where it must."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson
from msgspec import Struct, field

from picker.bodies.reading import Unreadable
from picker.prompt.fields import with_output_bound
from picker.prompt.forms import Form
from picker.prompt.members import values_of, with_values, without
from picker.request.rejection import Reason

_INCLUDE_USAGE: Final = b'"stream_options":{"include_usage":true}'
_EMPTY_OBJECT: Final = re.compile(rb"\s*+\}")


class OutputBound(NamedTuple):
    """The most tokens that an answer may have."""

    form: Form | None
    tokens: int


class Edits(Struct, frozen=True):
    """What is to change."""

    model: str | None = None
    """The model's name; None: as it is."""
    ask_for_usage: bool = False
    """``stream_options.include_usage`` is set."""
    drop: str | None = None
    """A member that is taken out; None: none."""
    bound: OutputBound | None = None
    """Larger bounds of the output are lowered to it."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Texts that take the place of those of members that are there."""

    def __bool__(self) -> bool:
        return (
            self.model is not None
            or self.ask_for_usage
            or self.drop is not None
            or self.bound is not None
            or bool(self.values)
        )


def edit(body: bytes, edits: Edits) -> bytes | Unreadable:
    """The changed body of a JSON object that has not been read yet."""
    return edited(body, orjson.loads(body), edits)


def edited(body: bytes, document: Mapping[str, object], edits: Edits) -> bytes | Unreadable:
    """``body``, which reads as ``document``, changed."""
    try:
        if edits.drop is not None:
            body = without(body, edits.drop)
            document = {key: value for key, value in document.items() if key != edits.drop}
        if edits.bound is not None:
            lowered = with_output_bound(edits.bound.form, document, edits.bound.tokens)
            for key, value in lowered.items():
                body = with_values(body, values_of(body, key), orjson.dumps(value))
        for key, text in edits.values.items():
            body = with_values(body, values_of(body, key), orjson.dumps(text))
        if edits.model is not None:
            body = with_model(body, document, edits.model)
        if edits.ask_for_usage:
            body = with_usage(body, document)
    except orjson.JSONEncodeError:  # it was JSON, so only its depth can be wrong
        return Unreadable(Reason.INVALID_REQUEST, "The request body is nested too deeply.")
    return body


def with_model(body: bytes, document: Mapping[str, object], served: str) -> bytes:
    """``body``, which reads as ``document``, with the top-level ``model`` replaced by ``served``,
    or added. One that is there twice is replaced twice: engines differ in which one they take."""
    name = orjson.dumps(served)
    if "model" not in document:
        return _with_member(body, b'"model":' + name)
    return with_values(body, values_of(body, "model"), name)


def with_usage(body: bytes, document: Mapping[str, object]) -> bytes:
    """``body``, which reads as ``document``, with ``stream_options.include_usage`` set; other
    stream options stay."""
    if "stream_options" not in document:
        return _with_member(body, _INCLUDE_USAGE)
    options = document["stream_options"]
    wanted = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    if "continuous_usage_stats" in wanted:
        wanted["continuous_usage_stats"] = False  # had no effect without include_usage
    return with_values(body, values_of(body, "stream_options"), orjson.dumps(wanted))


def _with_member(body: bytes, member: bytes) -> bytes:
    start = body.index(b"{") + 1
    comma = b"" if _EMPTY_OBJECT.match(body, start) else b","
    return b"".join((body[:start], member, comma, body[start:]))
