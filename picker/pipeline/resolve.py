"""Step: the model asked for to the model served, its adapter and its pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from picker import names
from picker.pipeline.sessions import session_key
from picker.prompt.forms import Form
from picker.request.answer import Answer
from picker.request.caller import Caller
from picker.request.context import RequestContext
from picker.request.model_list import model_card, model_list
from picker.request.rejection import Reason, Rejection
from picker.settings import RewriteTarget
from picker.state.catalog import Catalog, Occasion

_MODELS: Final = "/v1/models"
_UNREACHED: Final = "no replica has been reached"


class Resolve:
    """Header rewrite first, then rules by the incoming name, exact before generic."""

    def __init__(self, catalog: Catalog, now: Callable[[], float]) -> None:
        self._catalog = catalog
        self._now = now

    def __call__(self, context: RequestContext) -> None:
        path = context.head.path
        if context.head.method in ("GET", "HEAD") and (
            path == _MODELS or path.startswith(_MODELS + "/")
        ):
            context.answer = self._models(path, context.caller, anthropic=context.anthropic)
            return
        context.session = session_key(context)
        pool = context.pool if context.holder else None
        at = Occasion(self._now(), context.head.subset, context.session, pool)
        if context.asked_adapters:
            self._adapter(context, context.asked_adapters, at)
            return
        if context.new_path is not None and not context.asked_model:
            return  # to where the stored response is, whatever made it
        asked = context.asked_model
        rewritten = context.head.first_of(names.MODEL_REWRITE)
        target = RewriteTarget(rewritten) if rewritten else self._catalog.rewrite(asked or None, at)
        if target is None and context.form is Form.SGLANG:  # an API that knows one model only
            target = self._catalog.only_model()
        if target is None:
            if context.form is not None and context.head.sends:
                raise Rejection(Reason.MISSING_MODEL, "The request names no model.", param="model")
            self._default_pool(context)
            return
        serving = self._catalog.serving(target.model, at, pool=pool or target.pool)
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
            problem = self._catalog.problem
            why = f"a replica does not list its models ({problem})" if problem else _UNREACHED
            return Rejection(Reason.NO_ENDPOINTS, f"The model {model!r} is not known yet: {why}.")
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

    def _adapter(self, context: RequestContext, adapters: tuple[str, ...], at: Occasion) -> None:
        """An engine that knows ``lora_path`` serves that adapter whatever the model is; for one
        that does not, the body's model is changed to it. So what serves is what is paid for."""
        adapter = adapters[0]
        if len(adapters) > 1:
            raise Rejection(
                Reason.INVALID_REQUEST,
                "lora_path names several adapters, or one for some prompts only: send a request for"
                " each, since limits and prices go by one model.",
                param="lora_path",
            )
        serving = self._catalog.serving(adapter, at)
        if serving is None:
            if not self._catalog.complete:
                raise Rejection(
                    Reason.NO_ENDPOINTS,
                    f"The adapter {adapter!r} is not known yet: no replica has been reached.",
                )
            raise Rejection(
                Reason.MODEL_NOT_FOUND,
                f"The adapter {adapter!r} does not exist here: no replica lists it in /v1/models,"
                " and no pool has it in its `models`.",
                param="lora_path",
            )
        context.pool = serving.pool.name
        context.served_model = context.billed_model = adapter
        context.adapter = adapter if serving.is_adapter else ""

    def _default_pool(self, context: RequestContext) -> None:
        if context.holder:
            return
        pool = self._catalog.default_pool
        if pool is None:
            raise Rejection(Reason.NO_ENDPOINTS, "No pool is configured.")
        context.pool = pool.name

    def _models(self, path: str, caller: Caller, *, anthropic: bool) -> Answer:
        wanted = path.removeprefix(_MODELS).strip("/")
        models = [model for model in self._catalog.models() if caller.may_use(model.id)]
        if not wanted:
            body = model_list(models, anthropic=anthropic)
        else:
            one = next((model for model in models if model.id == wanted), None)
            if one is None:
                raise Rejection(
                    Reason.MODEL_NOT_FOUND,
                    f"The model {wanted!r} does not exist here.",
                    param="model",
                )
            body = model_card(one, anthropic=anthropic)
        return Answer(200, (("content-type", "application/json"),), body)
