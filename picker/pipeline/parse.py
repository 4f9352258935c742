"""Step: body bytes to fields and prompt."""

from __future__ import annotations

from typing import Final

import orjson

from picker.prompt.adapters import read_adapters
from picker.prompt.fields import read_fields
from picker.prompt.forms import Form, invoked, read_prompt, require_object
from picker.prompt.messages import InvalidPrompt
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection

_MAX_NAME_CHARS: Final = 1024
_MAX_LOGGED_CHARS: Final = 256


class Parse:
    """Reads the JSON body of a known API; other bodies are looked at only for a model name."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes

    async def __call__(self, context: RequestContext) -> None:
        if len(context.body) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        if context.form is None:
            _peek(context)
        elif context.head.sends:
            _read(context, context.form)
        if context.document is not None:
            _read_adapters(context, context.document)
        model = context.fields.model if context.fields is not None else None
        if model is not None:
            context.asked_model = model
            if len(model) > _MAX_NAME_CHARS:
                context.asked_model = model[:_MAX_LOGGED_CHARS]
                raise _too_long("model")


def too_large(max_body_bytes: int) -> Rejection:
    """Refuses a body over the limit."""
    return Rejection(Reason.TOO_LARGE, f"The request body is over {max_body_bytes} bytes.")


def _read(context: RequestContext, form: Form) -> None:
    try:
        document = require_object(orjson.loads(context.body))
        if form is Form.INVOCATION:
            form = context.form = invoked(document)
        context.document = document
        context.fields = read_fields(form, document)
        context.prompt = read_prompt(form, document)
    except orjson.JSONDecodeError as error:
        raise Rejection(
            Reason.INVALID_JSON, f"The request body is not valid JSON: {error.msg}"
        ) from error
    except InvalidPrompt as error:
        raise Rejection(Reason.INVALID_REQUEST, str(error), param=error.param) from error


def _read_adapters(context: RequestContext, document: dict[str, object]) -> None:
    try:
        context.asked_adapters = read_adapters(document)
    except InvalidPrompt as error:
        raise Rejection(Reason.INVALID_REQUEST, str(error), param=error.param) from error
    if any(len(name) > _MAX_NAME_CHARS for name in context.asked_adapters):
        raise _too_long("lora_path")


def _too_long(param: str) -> Rejection:
    return Rejection(
        Reason.INVALID_REQUEST,
        f"{param} is longer than {_MAX_NAME_CHARS} characters.",
        param=param,
    )


def _peek(context: RequestContext) -> None:
    # Engines read a body without a content type as JSON.
    if not context.body or "json" not in context.head.headers.get("content-type", "json").lower():
        return
    try:
        document = orjson.loads(context.body)
        if isinstance(document, dict):
            context.document = document
            context.fields = read_fields(None, document)
    except (orjson.JSONDecodeError, InvalidPrompt):
        return  # passed through as it is: the replica judges it
