"""Exact tokens, where a tokenizer is named for the model."""

from __future__ import annotations

from collections.abc import Sequence

from picker.pipeline.count import Count
from picker.prompt.counting import Counting
from tests.picker.pipeline.steps import begun, parsed


class Words:
    """A tokenizer whose tokens are words."""

    def count(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) for text in texts)


async def test_only_models_that_have_a_tokenizer_are_counted() -> None:
    counting = Counting([("small-*", Words())])
    for model, tokens in (("small-1", 5), ("large", None)):
        context = await parsed({"model": model, "prompt": ["one two", "three four five"]})
        context.served_model = model
        await Count(counting)(context)
        assert context.counted_tokens == tokens
    counting.configure([("*", Words())])
    await Count(counting)(context)
    assert context.counted_tokens == 5


async def test_a_query_counts_for_each_document() -> None:
    context = await parsed(
        {"model": "m", "query": "two words", "documents": ["a", "b c", "d"]}, "/v1/rerank"
    )
    context.served_model = "m"
    await Count(Counting([("*", Words())]))(context)
    assert context.counted_tokens == 3 * 2 + 4


async def test_without_a_prompt_there_is_nothing_to_count() -> None:
    context = begun("/somewhere")
    await Count(Counting([("*", Words())]))(context)
    assert context.counted_tokens is None
