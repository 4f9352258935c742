"""Step: the caller may use the model."""

from __future__ import annotations

from picker import names
from picker.pipeline.context import RequestContext
from picker.pipeline.rejection import Reason, Rejection

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def authorize(context: RequestContext) -> None:
    """403 for a model that the tenant or its key may not use; before it is told whether the model
    exists."""
    caller, head = context.caller, context.head
    if caller.may_use_all:
        return
    asked = context.fields.model if context.fields is not None else None
    rewritten = next((head.headers[n] for n in names.MODEL_REWRITE if head.headers.get(n)), None)
    wanted = [name for name in (asked, rewritten) if name]
    for name in wanted:
        if not caller.may_use(name):
            raise Rejection(
                Reason.MODEL_NOT_ALLOWED,
                f"The tenant {caller.tenant!r} may not use the model {name!r}, or its key may not.",
                param="model",
            )
    if not wanted and context.form is None and head.method not in _READING:
        raise Rejection(
            Reason.MODEL_NOT_ALLOWED,
            f"The tenant {caller.tenant!r} may use some models only, and this request names none.",
            param="model",
        )
