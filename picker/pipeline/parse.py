"""Step: body bytes to fields and prompt."""

from __future__ import annotations

import orjson

from picker.prompt.fields import read_fields
from picker.prompt.forms import Form, invoked, read_prompt, require_object
from picker.prompt.messages import InvalidPrompt
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection


def parse(context: RequestContext) -> None:
    """Read the JSON body of a known API; other bodies are looked at only for a model name."""
    if context.form is None:
        _peek(context)
        return
    if not context.head.sends:
        return  # nothing to read
    try:
        document = require_object(orjson.loads(context.body))
        if context.form is Form.INVOCATION:
            context.form = invoked(document)
        context.document = document
        context.fields = read_fields(context.form, document)
        context.prompt = read_prompt(context.form, document)
    except orjson.JSONDecodeError as error:
        raise Rejection(
            Reason.INVALID_JSON, f"The request body is not valid JSON: {error.msg}"
        ) from error
    except InvalidPrompt as error:
        raise Rejection(Reason.INVALID_REQUEST, str(error), param=error.param) from error


def _peek(context: RequestContext) -> None:
    if not context.body or "json" not in context.head.headers.get("content-type", ""):
        return
    try:
        document = orjson.loads(context.body)
        if isinstance(document, dict):
            context.fields = read_fields(None, document)
            context.document = document
    except (orjson.JSONDecodeError, InvalidPrompt):
        return  # passed through as it is: the replica judges it
