"""Step: the caller may use the model, and its usage will be known."""

from __future__ import annotations

from typing import Final

from picker import names
from picker.prompt.forms import Form
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUESTS_ONLY: Final = (
    "/render",
    "/derender",
    "/detokenize",
    "/cancel",
    "/ping",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/images/edits",
    "/images/generations",
    "/images/variations",
)
"""Ends of paths without a prompt that we read, and that may be used under limits of tokens or money
all the same: they generate no tokens, or none that an engine reports."""


class Authorize:
    """403 for a model that the tenant or its key may not use, before the answer shows whether the
    model exists; and for what a limit of tokens or money would not see."""

    def __call__(self, context: RequestContext) -> None:
        if not context.caller.may_use_all:
            _authorize_models(context)
        if not context.caller.limits_tokens:
            return
        if context.fields is not None and context.fields.background:
            raise Rejection(
                Reason.BACKGROUND,
                "A request in the background goes on when nobody listens, so what it uses cannot be"
                f" known, and the tenant {context.caller.tenant!r} has limits of tokens or money:"
                " send it without background. It may be stored all the same.",
                param="background",
            )
        if _is_unmetered(context):
            raise Rejection(
                Reason.NOT_METERED,
                f"The usage of {context.head.path} cannot be known, and the tenant"
                f" {context.caller.tenant!r} has limits of tokens or money.",
            )


def _authorize_models(context: RequestContext) -> None:
    caller, head = context.caller, context.head
    wanted = _wanted(context)
    for name in wanted:
        if not caller.may_use(name):
            raise Rejection(
                Reason.MODEL_NOT_ALLOWED,
                f"The tenant {caller.tenant!r} may not use the model {name!r}, or its key may not.",
                param="model",
            )
    if head.sends and context.body and context.form is None and context.fields is None:
        raise Rejection(
            Reason.MODEL_NOT_ALLOWED,
            f"The tenant {caller.tenant!r} may use some models only, and the body of this request"
            " cannot be read here: send JSON or a form, with one model.",
            param="model",
        )
    if not wanted and head.method not in _READING and context.new_path is None:
        raise Rejection(
            Reason.MODEL_NOT_ALLOWED,
            f"The tenant {caller.tenant!r} may use some models only, and this request names none.",
            param="model",
        )


def _wanted(context: RequestContext) -> list[str]:
    """Every model that the request names: in its body, in a header, and SGLang's adapters."""
    rewritten = context.head.first_of(names.MODEL_REWRITE)
    return [name for name in (context.asked_model, rewritten, *context.asked_adapters) if name]


def _is_unmetered(context: RequestContext) -> bool:
    head, fields, prompt = context.head, context.fields, context.prompt
    if context.form is None:
        return head.sends and not head.path.rstrip("/").endswith(_REQUESTS_ONLY)
    if context.form is not Form.SGLANG or fields is None or prompt is None:
        return False
    # Each of its events reports the usage of one answer of several.
    return fields.stream and fields.choices * len(prompt.sequences) > 1
