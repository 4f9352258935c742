"""From a body to what the picker needs of it."""

from __future__ import annotations

from typing import Final, TypeAlias

import orjson
from msgspec import Struct
from msgspec.structs import replace

from picker.caps import Caps
from picker.prompt.adapters import read_adapters
from picker.prompt.caps import require_within
from picker.prompt.fields import RequestFields, read_fields
from picker.prompt.forms import Form, Prompt, invoked, read_prompt, require_object
from picker.prompt.messages import InvalidPrompt
from picker.request.rejection import Reason, Rejection

MAX_NESTING: Final = 1_024
"""Levels of a body; orjson reads no more."""
_TOO_DEEP: Final = "depth limit"
_WINDOW_BYTES: Final = 1 << 18
_KEPT: Final = 2_000
"""Values of a member that is kept; so many characters of text count as one more."""
_CHARS_EACH: Final = 32


class Reading(Struct, frozen=True):
    """A body that could be read."""

    form: Form | None
    """Of an invocation, the one that it turned out to be."""
    document: dict[str, object] | None
    """None: a body without a form that is no JSON object; the replica judges it."""
    fields: RequestFields | None
    prompt: Prompt | None = None
    adapters: tuple[str, ...] = ()
    """Named beside the model."""


class Unreadable(Struct, frozen=True):
    """Why a body could not be read."""

    reason: Reason
    message: str
    param: str | None = None

    def rejection(self) -> Rejection:
        """For the client."""
        return Rejection(self.reason, self.message, param=self.param)


Outcome: TypeAlias = Reading | Unreadable
_NOT_READ: Final = Reading(None, None, None)


def read(body: bytes, form: Form | None, caps: Caps) -> Outcome:
    """Read a JSON body. Without a form only its fields are read."""
    try:
        document = orjson.loads(body)
        if form is None:
            return _opaque(document, caps)
        document = require_object(document)
        if form is Form.INVOCATION:
            form = invoked(document)
        fields = read_fields(form, document)
        prompt = read_prompt(form, document, caps)
        return Reading(form, document, fields, prompt, read_adapters(document))
    except orjson.JSONDecodeError as error:
        if form is None:
            return _NOT_READ
        if _TOO_DEEP in error.msg:
            return Unreadable(
                Reason.INVALID_REQUEST,
                f"The request body is nested more than {MAX_NESTING} levels deep.",
            )
        return Unreadable(Reason.INVALID_JSON, f"The request body is not valid JSON: {error.msg}")
    except InvalidPrompt as error:
        return Unreadable(Reason.INVALID_REQUEST, str(error), error.param)


def _opaque(document: object, caps: Caps) -> Reading:
    if not isinstance(document, dict):
        return _NOT_READ
    require_within(document, caps)
    adapters = read_adapters(document)
    try:
        fields = read_fields(None, document)
    except InvalidPrompt:
        return Reading(None, document, None, None, adapters)
    return Reading(None, document, fields, None, adapters)


def read_heavy(body: bytes, form: Form | None, caps: Caps) -> Outcome:
    """As `read`, for a body that is long to read: refused first by its number of values. Large
    members of the document come out empty, for they would take as long to hand over."""
    if _has_more_values(body, caps.values):
        return Unreadable(
            Reason.TOO_LARGE,
            f"The request body has more than {caps.values} JSON values (cap: values).",
        )
    outcome = read(body, form, caps)
    if isinstance(outcome, Unreadable) or outcome.document is None:
        return outcome
    document = {key: _lean(value) for key, value in outcome.document.items()}
    return replace(outcome, document=document)


def _has_more_values(body: bytes, most: int) -> bool:
    """Texts in it are looked at only when the bytes that part values are more than that."""
    if _partings(body) <= most:
        return False
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    count = inside = 0
    for start in range(0, len(plain), _WINDOW_BYTES):
        pieces = plain[start : start + _WINDOW_BYTES].split(b'"')
        count += _partings(b"".join(pieces[inside::2]))
        if count > most:
            return True
        inside ^= (len(pieces) - 1) & 1
    return False


def _partings(text: bytes) -> int:
    """Bytes that begin a list or an object, or go on to the next value or member."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _lean(value: object) -> object:
    if isinstance(value, str | dict | list) and not _is_small(value):
        return type(value)()
    return value


def _is_small(value: object) -> bool:
    left, rest = _KEPT, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            left -= len(one) // _CHARS_EACH
        elif isinstance(one, dict):
            left -= len(one)
            if left > 0:
                rest += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            left -= len(one)
            if left > 0:
                rest += one
        if left <= 0:
            return False
    return True
