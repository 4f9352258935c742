"""Step: what must change in the request. A changed body changes only where it must."""

from __future__ import annotations

import re
from typing import Final

import orjson

from picker.pipeline.context import RequestContext
from picker.prompt.forms import Form

_ASKS_FOR_USAGE: Final = frozenset({Form.CHAT, Form.COMPLETIONS})
_STREAM_OPTIONS: Final = re.compile(rb'"stream_options"\s*:\s*(null|\{[^{}]*\})')
_INCLUDE_USAGE: Final = b'"stream_options":{"include_usage":true}'


def mutate(context: RequestContext) -> None:
    """Rewrite the model name; ask for usage in streams whose client did not."""
    document, fields = context.document, context.fields
    if document is None or fields is None:
        return
    body = context.body
    if context.form is not None and context.served_model != context.asked_model:
        document["model"] = context.served_model
        body = with_model(body, context.asked_model, context.served_model)
    if context.form in _ASKS_FOR_USAGE and fields.stream and not fields.include_usage:
        context.strip_usage = True
        body = with_usage(body, document.get("stream_options"))
    if body is not context.body:
        context.changed_body = body


def with_model(body: bytes, asked: str, served: str) -> bytes:
    """``body`` with the top-level ``model`` replaced by ``served``, or added."""
    name = orjson.dumps(served)
    if not asked:
        return _with_member(body, b'"model":' + name)
    pattern = re.compile(rb'"model"\s*:\s*' + re.escape(orjson.dumps(asked)))
    matches = list(pattern.finditer(body))
    # Nested objects may hold the same text: the right place is the one that changes the top level.
    for match in reversed(matches):
        changed = b"".join((body[: match.start()], b'"model":', name, body[match.end() :]))
        if len(matches) == 1 or orjson.loads(changed).get("model") == served:
            return changed
    document = orjson.loads(body)  # the name is written with escapes
    document["model"] = served
    return orjson.dumps(document)


def with_usage(body: bytes, options: object) -> bytes:
    """``body`` with ``stream_options.include_usage`` set; other stream options stay."""
    if options is None and b'"stream_options"' not in body:
        return _with_member(body, _INCLUDE_USAGE)
    matches = list(_STREAM_OPTIONS.finditer(body))
    wanted = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    if len(matches) == 1:
        start, end = matches[0].span()
        return b"".join((body[:start], b'"stream_options":', orjson.dumps(wanted), body[end:]))
    document = orjson.loads(body)
    document["stream_options"] = wanted
    return orjson.dumps(document)


def _with_member(body: bytes, member: bytes) -> bytes:
    start = body.index(b"{") + 1
    empty = body[start:].lstrip()[:1] == b"}"
    return b"".join((body[:start], member, b"" if empty else b",", body[start:]))
