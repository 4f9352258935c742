"""Step: body bytes to fields and prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from picker.bodies.apart import Apart, BodyLost
from picker.bodies.cost import SURE_BYTES, is_heavy
from picker.bodies.multipart import InvalidForm, find_model
from picker.bodies.reading import Outcome, Unreadable, read, read_heavy
from picker.caps import Caps
from picker.prompt.fields import read_fields
from picker.prompt.forms import names_model
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from policies.limits.plan import By

_LARGE_FORM_BYTES: Final = 1_000_000
_MAX_NAME_CHARS: Final = 1024
_MAX_LOGGED_CHARS: Final = 256


class Parse:
    """Reads the JSON body of a known API; other bodies are looked at only for a model name."""

    def __init__(self, max_body_bytes: int, caps: Caps, apart: Apart) -> None:
        self._max_body_bytes = max_body_bytes
        self._caps = caps
        self._apart = apart

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        if len(context.body) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        if context.is_form:
            return self._read_form(context)
        if context.head.sends if context.form is not None else context.is_json:
            if _is_heavy(context):
                return self._read_apart(context)
            _take(context, read(context.body, context.form, self._caps))
        else:
            name_model(context, None)
            _require_legible(context)
        return None

    async def _read_apart(self, context: RequestContext) -> None:
        try:
            outcome = await self._apart.run(read_heavy, context.body, context.form, self._caps)
        except BodyLost as error:
            raise lost() from error
        _take(context, outcome)

    async def _read_form(self, context: RequestContext) -> None:
        body, kind = context.body, context.head.headers.get("content-type", "")
        try:
            if len(body) > _LARGE_FORM_BYTES:
                place = await asyncio.to_thread(find_model, body, kind)
            else:
                place = find_model(body, kind)
        except InvalidForm as error:
            if not context.caller.may_use_all:
                return  # it names no model, and so none that the caller may use: 403
            message = f"The form in the request body cannot be read: {error}."
            raise Rejection(Reason.INVALID_REQUEST, message) from error
        context.form_model = place
        model = body[place].decode() if place is not None else None
        context.fields = read_fields(None, {"model": model})
        name_model(context, model)


def _is_heavy(context: RequestContext) -> bool:
    if context.decoded or len(context.body) <= SURE_BYTES:
        context.heavy = is_heavy(context.body)  # before, it was not what will be read
    return context.heavy


def _take(context: RequestContext, outcome: Outcome) -> None:
    """What was read of a JSON body."""
    if isinstance(outcome, Unreadable):
        raise outcome.rejection()
    context.form, context.document = outcome.form, outcome.document
    context.fields, context.prompt = outcome.fields, outcome.prompt
    context.asked_adapters = outcome.adapters
    if outcome.adapters and max(map(len, outcome.adapters)) > _MAX_NAME_CHARS:
        raise _too_long("lora_path")
    name_model(context, outcome.fields.model if outcome.fields is not None else None)
    _require_legible(context)


def name_model(context: RequestContext, given: str | None) -> None:
    """The body names this model, or none; its path's goes before. Raises Rejection for a name that
    is too long."""
    model = context.deployment or given
    if not model:
        return
    context.asked_model = model
    if len(model) > _MAX_NAME_CHARS:
        context.asked_model = model[:_MAX_LOGGED_CHARS]
        raise _too_long("model")


def _require_legible(context: RequestContext) -> None:
    """Refuses a body that may name a model to the engine and cannot be read here, where limits go
    by models. Who may use some models only is refused later, as for no model."""
    caller, head = context.caller, context.head
    if context.fields is not None or context.form is not None:
        return
    if not (head.sends and context.body and names_model(head.path)):
        return
    by_model = any(rule.models or By.MODEL in rule.by for rule in caller.policy.rules)
    if by_model and caller.may_use_all:
        raise Rejection(
            Reason.INVALID_REQUEST,
            "The request body cannot be read here: send a JSON object in UTF-8, or a form,"
            " with one model.",
        )


def too_large(max_body_bytes: int, what: str = "") -> Rejection:
    """Refuses a body over the limit."""
    return Rejection(Reason.TOO_LARGE, f"The {what}request body is over {max_body_bytes} bytes.")


def lost() -> Rejection:
    """Refuses a body of which the process died that read it."""
    return Rejection(Reason.TOO_LARGE, "The request body took too much memory to read.")


def _too_long(param: str) -> Rejection:
    return Rejection(
        Reason.INVALID_REQUEST,
        f"{param} is longer than {_MAX_NAME_CHARS} characters.",
        param=param,
    )
