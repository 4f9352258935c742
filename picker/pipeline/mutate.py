"""Step: what must change in the request. A changed body changes only where it must."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

from picker.pipeline.recall import PREVIOUS
from picker.prompt.forms import Form
from picker.prompt.members import values_of, with_values
from picker.request.context import RequestContext

_NAMED_PATHS: Final = ("/v1/audio/", "/v1/images/", "/detokenize")
"""Paths without a prompt whose JSON names a model all the same."""
_ASKS_FOR_USAGE: Final = frozenset({Form.CHAT, Form.COMPLETIONS, Form.GENERATE})
_INCLUDE_USAGE: Final = b'"stream_options":{"include_usage":true}'
_EMPTY_OBJECT: Final = re.compile(rb"\s*\}")


class Mutate:
    """Rewrites the model name; asks for usage in streams whose client did not; spells the path so
    that the replica reads what was decided by."""

    async def __call__(self, context: RequestContext) -> None:
        path = context.new_path or context.head.respelled
        if path is not None:
            context.set_headers.append((":path", path))
        document, fields = context.document, context.fields
        if document is None or fields is None:
            return
        if context.form is None and not _names_a_model(context):
            return  # a path that we do not know passes byte for byte
        body = context.body
        if context.served_model != context.asked_model and context.form is not Form.SGLANG:
            body = with_model(body, document, context.served_model)
            document["model"] = context.served_model
            context.model_changed = True
        if context.form in _ASKS_FOR_USAGE and fields.stream and not fields.include_usage:
            options = document.get("stream_options")
            if options is None or isinstance(options, dict):  # else: for the replica to refuse
                context.strip_usage = True
                body = with_usage(body, document)
        if context.response_id and PREVIOUS in document:
            own = orjson.dumps(context.response_id)
            body = with_values(body, values_of(body, PREVIOUS), own)
        if body is not context.body:
            context.changed_body = body


def _names_a_model(context: RequestContext) -> bool:
    named = context.fields is not None and context.fields.model is not None
    return named and bool(context.served_model) and context.head.path.startswith(_NAMED_PATHS)


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
