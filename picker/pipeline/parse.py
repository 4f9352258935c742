"""Step: body bytes to fields and prompt."""

from __future__ import annotations

from typing import Final

from picker.bodies.apart import Apart, BodyLost
from picker.bodies.cost import is_heavy
from picker.bodies.reading import Outcome, Unreadable, read, read_heavy
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.settings import Caps

_MAX_NAME_CHARS: Final = 1024
_MAX_LOGGED_CHARS: Final = 256


class Parse:
    """Reads the JSON body of a known API; other bodies are looked at only for a model name."""

    def __init__(self, max_body_bytes: int, caps: Caps, apart: Apart) -> None:
        self._max_body_bytes = max_body_bytes
        self._caps = caps
        self._apart = apart

    async def __call__(self, context: RequestContext) -> None:
        if len(context.body) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        if not (context.head.sends if context.form is not None else context.is_json):
            return
        outcome = await self._read(context)
        if isinstance(outcome, Unreadable):
            if context.form is None and outcome.reason is not Reason.TOO_LARGE:
                return  # passed through as it is: the replica judges it
            raise outcome.rejection()
        context.form, context.document = outcome.form, outcome.document
        context.fields, context.prompt = outcome.fields, outcome.prompt
        name_model(context, outcome.fields.model)

    async def _read(self, context: RequestContext) -> Outcome:
        body = context.body
        context.heavy = is_heavy(body)
        if not context.heavy:
            return read(body, context.form, self._caps)
        try:
            return await self._apart.run(read_heavy, body, context.form, self._caps)
        except BodyLost as error:
            raise lost() from error


def name_model(context: RequestContext, model: str | None) -> None:
    """The request names this model. Raises Rejection for a name that is too long."""
    if model is None:
        return
    context.asked_model = model
    if len(model) > _MAX_NAME_CHARS:
        context.asked_model = model[:_MAX_LOGGED_CHARS]
        raise Rejection(
            Reason.INVALID_REQUEST,
            f"model is longer than {_MAX_NAME_CHARS} characters.",
            param="model",
        )


def too_large(max_body_bytes: int, what: str = "") -> Rejection:
    """Refuses a body over the limit."""
    return Rejection(Reason.TOO_LARGE, f"The {what}request body is over {max_body_bytes} bytes.")


def lost() -> Rejection:
    """Refuses a body of which the process died that read it."""
    return Rejection(Reason.TOO_LARGE, "The request body took too much memory to read.")
