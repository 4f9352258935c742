"""Step: the model asked for to the model served, its adapter and its pool."""

from __future__ import annotations

from typing import Final

from picker import names
from picker.prompt.forms import Form
from picker.request.answer import Answer
from picker.request.caller import Caller
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.settings import RewriteTarget
from picker.state.catalog import Catalog

_MODELS: Final = "/v1/models"
_MAX_NAME_CHARS: Final = 1024


class Resolve:
    """Header rewrite first, then rules by the incoming name, exact before generic."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def __call__(self, context: RequestContext) -> None:
        path = context.head.path
        if context.head.method in ("GET", "HEAD") and (
            path == _MODELS or path.startswith(_MODELS + "/")
        ):
            context.answer = self._models(path, context.caller)
            return
        asked = context.fields.model if context.fields is not None else None
        if asked is not None and len(asked) > _MAX_NAME_CHARS:
            raise Rejection(
                Reason.INVALID_REQUEST,
                f"model is longer than {_MAX_NAME_CHARS} characters.",
                param="model",
            )
        context.asked_model = asked or ""
        rewritten = _rewritten(context)
        target = RewriteTarget(rewritten) if rewritten else self._catalog.rewrite(asked)
        if target is None and context.form is Form.SGLANG:  # an API that knows one model only
            target = self._catalog.only_model()
        if target is None:
            if context.form is not None and context.head.sends:
                raise Rejection(Reason.MISSING_MODEL, "The request names no model.", param="model")
            self._default_pool(context)
            return
        place = self._catalog.place(target.model, pool=target.pool)
        if place is None:
            if context.form is None:
                self._default_pool(context)
                return
            if not self._catalog.complete:
                raise Rejection(
                    Reason.NO_ENDPOINTS,
                    f"The model {target.model!r} is not known yet: no replica has been reached.",
                )
            if context.asked_model != target.model:
                raise Rejection(
                    Reason.NO_ENDPOINTS,
                    f"The model {context.asked_model!r} leads to {target.model!r}, which no"
                    " replica serves.",
                )
            raise Rejection(
                Reason.MODEL_NOT_FOUND,
                f"The model {target.model!r} does not exist here.",
                param="model",
            )
        context.pool = place.pool
        context.served_model = target.model
        # Only an operator's alias is billed by the name asked for: a header's is the client's own.
        aliased = asked is not None and not rewritten and self._catalog.is_known(asked)
        context.billed_model = asked if asked is not None and aliased else target.model
        context.adapter = target.model if place.is_adapter else ""

    def _default_pool(self, context: RequestContext) -> None:
        context.pool = self._catalog.default_pool
        if context.pool is None:
            raise Rejection(Reason.NO_ENDPOINTS, "No pool is configured.")

    def _models(self, path: str, caller: Caller) -> Answer:
        wanted = path.removeprefix(_MODELS).strip("/")
        body = None
        if not wanted:
            body = self._catalog.listing(caller.may_use)
        elif caller.may_use(wanted):
            body = self._catalog.model(wanted)
        if body is None:
            raise Rejection(
                Reason.MODEL_NOT_FOUND, f"The model {wanted!r} does not exist here.", param="model"
            )
        return Answer(200, (("content-type", "application/json"),), body)


def _rewritten(context: RequestContext) -> str:
    """The model that a header names instead of the body's, "" for none."""
    given = context.head.headers
    return next((given[name] for name in names.MODEL_REWRITE if given.get(name)), "")
