"""Step: what must change in the request. A changed body changes only where it must."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from picker.bodies.apart import Apart, BodyLost
from picker.bodies.edits import Edits, OutputBound, edit, edited
from picker.bodies.multipart import with_form_model
from picker.bodies.reading import Unreadable
from picker.pipeline.parse import lost
from picker.pipeline.recall import PREVIOUS
from picker.prompt.forms import Form, names_model
from picker.request.context import RequestContext

_ASKS_FOR_USAGE: Final = frozenset({Form.CHAT, Form.COMPLETIONS, Form.GENERATE})
_PRIORITY: Final = "priority"
"""vLLM's and SGLang's: which request is scheduled first, over all clients."""
_NOTHING: Final = Edits()


class Mutate:
    """Rewrites the model name; asks for usage in streams whose client did not; writes down a bound
    of the output that limits have lowered; takes out the engine's ``priority`` unless the client's
    plan lets it set one; spells the path so that the replica reads what was decided by."""

    def __init__(self, apart: Apart) -> None:
        self._apart = apart

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        path = context.new_path or context.head.respelled
        if path is not None:
            context.set_headers.append((":path", path))
        edits = _edits(context)
        if edits.model is not None and context.served_model != context.asked_model:
            context.model_changed = True
        if not edits:
            context.changed_body = context.body if context.decoded else None
        elif edits.model is not None and context.is_form:
            context.changed_body = with_form_model(context.body, context.form_model, edits.model)
        elif context.heavy:
            return self._edit_apart(context, edits)
        else:
            assert context.document is not None
            context.changed_body = _readable(edited(context.body, context.document, edits))
        return None

    async def _edit_apart(self, context: RequestContext, edits: Edits) -> None:
        try:
            changed = await self._apart.run(edit, context.body, edits)
        except BodyLost as error:
            raise lost() from error
        context.changed_body = _readable(changed)


def _readable(changed: bytes | Unreadable) -> bytes:
    if isinstance(changed, Unreadable):
        raise changed.rejection()
    return changed


def _edits(context: RequestContext) -> Edits:
    fields = context.fields
    if fields is None or (context.document is None and not context.is_form):
        return _NOTHING
    document = context.document or {}
    drop = None
    if _PRIORITY in document and not context.caller.policy.client_priority:
        drop = _PRIORITY
    values = {}
    if context.response_id and PREVIOUS in document:
        values = {PREVIOUS: context.response_id}
    if context.form is None and not _names_a_model(context):
        # The rest of a path that we do not know passes byte for byte.
        return Edits(drop=drop, values=values)
    model = None
    if context.served_model != (fields.model or "") and context.form is not Form.SGLANG:
        model = context.served_model
    usage = False
    if context.form in _ASKS_FOR_USAGE and fields.stream and not fields.include_usage:
        options = document.get("stream_options")
        # else: for the replica to refuse
        usage = context.strip_usage = options is None or isinstance(options, dict)
    bound = context.clamped_output_tokens
    return Edits(
        model,
        ask_for_usage=usage,
        drop=drop,
        bound=None if bound is None else OutputBound(context.form, bound),
        values=values,
    )


def _names_a_model(context: RequestContext) -> bool:
    return bool(context.served_model) and names_model(context.head.path)
