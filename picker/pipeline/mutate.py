"""Step: what must change in the request. A changed body changes only where it must."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

from picker.pipeline.context import RequestContext
from picker.prompt.forms import Form

_ASKS_FOR_USAGE: Final = frozenset({Form.CHAT, Form.COMPLETIONS})
_STREAM_OPTIONS: Final = re.compile(rb'"stream_options"\s*:\s*(?:null|\{[^{}]*\})')
_INCLUDE_USAGE: Final = b'"stream_options":{"include_usage":true}'
_EMPTY_OBJECT: Final = re.compile(rb"\s*\}")
_MAX_TRIES: Final = 3
"""Places looked at before the body is written anew."""


def mutate(context: RequestContext) -> None:
    """Rewrite the model name; ask for usage in streams whose client did not."""
    document, fields = context.document, context.fields
    if document is None or fields is None or context.form is None:
        return
    body = context.body
    if context.served_model != context.asked_model:
        body = with_model(body, document, context.served_model)
        document["model"] = context.served_model
        context.model_changed = True
    if context.form in _ASKS_FOR_USAGE and fields.stream and not fields.include_usage:
        options = document.get("stream_options")
        if options is None or isinstance(options, dict):  # else: for the replica to refuse
            context.strip_usage = True
            body = with_usage(body, document)
    if body is not context.body:
        context.changed_body = body


def with_model(body: bytes, document: Mapping[str, object], served: str) -> bytes:
    """``body``, which reads as ``document``, with the top-level ``model`` replaced by ``served``,
    or added."""
    name = b'"model":' + orjson.dumps(served)
    if "model" not in document:
        return _with_member(body, name)
    asked = re.escape(orjson.dumps(document["model"]))
    pattern = re.compile(rb'"model"\s*:\s*' + asked)
    return _replaced(body, pattern, name) or _rewritten(body, "model", served)


def with_usage(body: bytes, document: Mapping[str, object]) -> bytes:
    """``body``, which reads as ``document``, with ``stream_options.include_usage`` set; other
    stream options stay."""
    if "stream_options" not in document:
        return _with_member(body, _INCLUDE_USAGE)
    options = document["stream_options"]
    wanted = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    if "continuous_usage_stats" in wanted:
        wanted["continuous_usage_stats"] = False  # had no effect without include_usage
    member = b'"stream_options":' + orjson.dumps(wanted)
    return _replaced(body, _STREAM_OPTIONS, member) or _rewritten(body, "stream_options", wanted)


def _replaced(body: bytes, pattern: re.Pattern[bytes], member: bytes) -> bytes | None:
    """``body`` with the last match at its top level replaced; None when that is hard to tell."""
    matches = list(pattern.finditer(body))
    for match in matches[: -_MAX_TRIES - 1 : -1]:
        if _is_top_level(body, match.start()):
            return b"".join((body[: match.start()], member, body[match.end() :]))
    return None


def _is_top_level(body: bytes, start: int) -> bool:
    """What follows ``start``, a member's name, closes one object and then nothing is left."""
    if body[start - 1 : start] == b"\\":
        return False  # within a string
    if start < 64 and body[:start].strip() == b"{":
        return True
    try:
        orjson.loads(b"{" + body[start:])
    except orjson.JSONDecodeError:
        return False
    return True


def _rewritten(body: bytes, key: str, value: object) -> bytes:
    """The name is written with escapes, or stands in too many places: write the body anew."""
    document = orjson.loads(body)
    document[key] = value
    return orjson.dumps(document)


def _with_member(body: bytes, member: bytes) -> bytes:
    start = body.index(b"{") + 1
    comma = b"" if _EMPTY_OBJECT.match(body, start) else b","
    return b"".join((body[:start], member, comma, body[start:]))
