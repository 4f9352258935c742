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


class Resolve:
    """Header rewrite first, then rules by the incoming name, exact before generic."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def __call__(self, context: RequestContext) -> None:
        path = context.head.path
        if context.head.method in ("GET", "HEAD") and (
            path == _MODELS or path.startswith(_MODELS + "/")
        ):
            context.answer = self._models(path, context.caller)
            return
        asked = context.asked_model
        rewritten = context.head.first_of(names.MODEL_REWRITE)
        target = RewriteTarget(rewritten) if rewritten else self._catalog.rewrite(asked or None)
        if target is None and context.form is Form.SGLANG:  # an API that knows one model only
            target = self._catalog.only_model()
        if target is None:
            if context.form is not None and context.head.sends:
                raise Rejection(Reason.MISSING_MODEL, "The request names no model.", param="model")
            self._default_pool(context)
            return
        serving = self._catalog.serving(target.model, pool=target.pool)
        if serving is None:
            if context.form is None and not rewritten:
                self._default_pool(context)
                return
            raise self._not_served(context, target.model, rewritten)
        context.pool = serving.pool.name
        context.served_model = target.model
        # Only an operator's alias is billed by the name asked for: a header's is the client's own.
        aliased = bool(asked) and not rewritten and self._catalog.is_known(asked)
        context.billed_model = asked if aliased else target.model
        context.adapter = target.model if serving.is_adapter else ""

    def _not_served(self, context: RequestContext, model: str, rewritten: str) -> Rejection:
        if not self._catalog.complete:
            return Rejection(
                Reason.NO_ENDPOINTS,
                f"The model {model!r} is not known yet: no replica has been reached.",
            )
        if rewritten:
            return Rejection(
                Reason.MODEL_NOT_FOUND,
                f"The model {model!r}, which a header of the request names, does not exist here.",
            )
        if context.asked_model != model:
            return Rejection(
                Reason.NO_ENDPOINTS,
                f"The model {context.asked_model!r} leads to {model!r}, which no replica serves.",
            )
        return Rejection(
            Reason.MODEL_NOT_FOUND, f"The model {model!r} does not exist here.", param="model"
        )

    def _default_pool(self, context: RequestContext) -> None:
        pool = self._catalog.default_pool
        if pool is None:
            raise Rejection(Reason.NO_ENDPOINTS, "No pool is configured.")
        context.pool = pool.name

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
