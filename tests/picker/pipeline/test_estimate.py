"""Tokens that a request will cost, and its prompt's hashes."""

from __future__ import annotations

import pytest

from picker.pipeline.estimate import MAX_OUTPUT_TOKENS, MEDIA_ITEM_TOKENS, Estimate
from picker.request.context import RequestContext
from picker.request.rejection import Reason
from policies.limits.prices import MOST, NOTHING, Usage
from tests.picker.fleet import MODEL, Fleet, fleet
from tests.picker.pipeline.steps import begun, parsed, refusal, take

CONTEXT = 32_768
"""Of the fleet's model."""


@pytest.fixture
def made() -> Fleet:
    return fleet()


def step(made: Fleet) -> Estimate:
    return Estimate(made.picker.catalog, made.picker.learned, default_output_tokens=256.0)


async def estimated(made: Fleet, body: dict[str, object], path: str = "") -> RequestContext:
    context = await parsed({"model": MODEL, **body}, path or "/v1/completions")
    context.served_model = MODEL
    await take(step(made), context)
    return context


async def test_text_by_the_learned_ratio_and_ids_exactly(made: Fleet) -> None:
    assert (await estimated(made, {"prompt": "x" * 400})).prompt_tokens == pytest.approx(100)
    for _ in range(200):
        made.picker.learned.prompt(
            "", MODEL, text_bytes=400, text_units=400, counted_tokens=None, tokens=200
        )
    assert (await estimated(made, {"prompt": "x" * 400})).prompt_tokens == pytest.approx(200, 0.05)
    assert (await estimated(made, {"prompt": [1, 2, 3]})).prompt_tokens == 3


async def test_a_tokenizers_count_goes_before_the_ratio(made: Fleet) -> None:
    context = await parsed({"model": MODEL, "prompt": "x" * 400})
    context.served_model, context.counted_tokens = MODEL, 7
    await take(step(made), context)
    assert context.prompt_tokens == pytest.approx(7)


async def test_media_count_as_much_as_is_assumed(made: Fleet) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body: dict[str, object] = {"messages": [{"role": "user", "content": [image]}]}
    context = await estimated(made, body, "/v1/chat/completions")
    assert MEDIA_ITEM_TOKENS < context.prompt_tokens < MEDIA_ITEM_TOKENS + 20


async def test_output_as_declared_else_as_usual(made: Fleet) -> None:
    undeclared = await estimated(made, {"prompt": [1]})
    assert undeclared.output_tokens == 256.0
    assert undeclared.expected == Usage(1, 1_024), "what is learned begins there"
    for _ in range(100):
        made.picker.learned.answer(undeclared.caller.tenant, MODEL, 0, Usage(1, 40))
    assert 40 <= (await estimated(made, {"prompt": [1]})).expected.output_tokens <= 44
    declared = await estimated(made, {"prompt": [[1], [2]], "max_tokens": 10, "n": 3})
    assert declared.output_tokens == 30.0
    assert declared.expected == Usage(2, 60)


async def test_no_more_than_the_context_and_no_more_than_adds_up(made: Fleet) -> None:
    long = await estimated(made, {"prompt": [1], "max_tokens": 10**9})
    assert long.output_tokens == CONTEXT
    assert long.expected.output_tokens == CONTEXT
    assert long.possible == Usage(16 * CONTEXT, 16 * CONTEXT)
    absurd = await estimated(made, {"prompt": [1], "max_tokens": 10**9, "n": 10**9})
    assert absurd.output_tokens == MAX_OUTPUT_TOKENS


async def test_a_prompt_over_the_context_is_refused(made: Fleet) -> None:
    context = await parsed({"model": MODEL, "prompt": [1] * (CONTEXT + 1)})
    context.served_model = MODEL
    await refusal(step(made), context, Reason.CONTEXT_LENGTH)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/completions/render"])
async def test_what_runs_no_model_costs_nothing(made: Fleet, path: str) -> None:
    assert (await estimated(made, {"prompt": "Hello"}, path)).expected == NOTHING


async def test_without_a_prompt_nothing_is_known(made: Fleet) -> None:
    context = begun("/somewhere")
    await take(step(made), context)
    assert (context.prompt_tokens, context.expected, context.possible) == (0.0, NOTHING, MOST)
