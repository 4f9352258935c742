"""The model asked for to the model served, its adapter and its pool."""

from __future__ import annotations

import orjson
import pytest

from picker.pipeline.resolve import Resolve
from picker.request.context import RequestContext
from picker.request.rejection import Reason
from picker.settings import RewriteRule, RewriteTarget
from tests.picker.fleet import MODEL, POOL, Fleet, fleet
from tests.picker.pipeline.steps import begun, parsed, refusal

LORA = "lora"


@pytest.fixture
def made() -> Fleet:
    one = fleet(models=(MODEL, LORA))
    one.configure(
        rewrites=[
            RewriteRule("alias", (RewriteTarget(LORA),)),
            RewriteRule("dead", (RewriteTarget("gone"),)),
        ]
    )
    return one


async def resolved(made: Fleet, context: RequestContext) -> RequestContext:
    await Resolve(made.picker.catalog)(context)
    return context


@pytest.mark.parametrize(
    ("asked", "served", "adapter"),
    [(MODEL, MODEL, ""), (LORA, LORA, LORA), ("alias", LORA, LORA)],
)
async def test_a_name_leads_to_model_adapter_and_pool(
    made: Fleet, asked: str, served: str, adapter: str
) -> None:
    context = await resolved(made, await parsed({"model": asked, "prompt": "x"}))
    assert (context.served_model, context.adapter, context.pool) == (served, adapter, POOL)
    assert (context.asked_model, context.billed_model) == (asked, asked)


async def test_a_header_comes_first_and_is_billed_as_what_it_leads_to(made: Fleet) -> None:
    rewrite = {"x_llm_d_model_name_rewrite": MODEL, "x_gateway_model_name_rewrite": LORA}
    context = await resolved(made, await parsed({"model": "alias", "prompt": "x"}, **rewrite))
    assert (context.served_model, context.billed_model) == (MODEL, MODEL)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"model": "unheard-of", "prompt": "x"}, Reason.MODEL_NOT_FOUND),
        ({"prompt": "x"}, Reason.MISSING_MODEL),
        ({"model": "dead", "prompt": "x"}, Reason.NO_ENDPOINTS),
    ],
)
async def test_what_leads_nowhere(made: Fleet, body: dict[str, object], reason: Reason) -> None:
    await refusal(Resolve(made.picker.catalog), await parsed(body), reason)


@pytest.mark.parametrize("path", ["/v1/completions", "/somewhere"])
async def test_a_header_that_leads_nowhere_is_final(made: Fleet, path: str) -> None:
    context = await parsed(path=path, x_llm_d_model_name_rewrite="unheard-of")
    await refusal(Resolve(made.picker.catalog), context, Reason.MODEL_NOT_FOUND)


async def test_the_list_of_models_is_answered_here(made: Fleet) -> None:
    context = await resolved(made, begun("/v1/models", "GET"))
    assert context.answer is not None
    names = {model["id"] for model in orjson.loads(context.answer.body)["data"]}
    assert names == {MODEL, LORA, "alias", "dead"}
    one = await resolved(made, begun(f"/v1/models/{LORA}", "GET"))
    assert one.answer is not None
    assert orjson.loads(one.answer.body)["parent"] == MODEL
    missing = begun("/v1/models/none", "GET")
    await refusal(Resolve(made.picker.catalog), missing, Reason.MODEL_NOT_FOUND)


async def test_a_path_without_a_model_goes_to_the_default_pool(made: Fleet) -> None:
    context = await resolved(made, begun("/somewhere", "GET"))
    assert (context.pool, context.served_model) == (POOL, "")
