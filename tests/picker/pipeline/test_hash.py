"""Hashes of a prompt: which of them differ, and that a long prompt gives the same ones."""

from __future__ import annotations

from picker.pipeline.hash import Hash
from picker.prompt.blocks import Blocks, hash_blocks
from picker.request.context import RequestContext
from tests.picker.pipeline.steps import begun, parsed, take


async def hashed(body: dict[str, object]) -> RequestContext:
    context = await parsed({"model": "llama", **body})
    await take(Hash(), context)
    return context


async def test_hashes_are_salted_and_those_that_are_given_stay() -> None:
    plain = await hashed({"prompt": "x" * 1_000})
    salted = await hashed({"prompt": "x" * 1_000, "cache_salt": "s"})
    assert plain.blocks is not None
    assert salted.blocks is not None
    assert not set(plain.blocks.chains[0]) & set(salted.blocks.chains[0])
    context = await parsed()
    context.blocks = given = Blocks(([1],), 4)
    await take(Hash(), context)
    assert context.blocks is given


async def test_a_long_prompt_has_the_same_hashes_from_a_thread() -> None:
    for prompt in ("x" * 2_100_000, ["y" * 600] * 2_001):
        context = await parsed({"model": "llama", "prompt": prompt})
        assert context.prompt is not None
        await take(Hash(), context)
        assert context.blocks == hash_blocks(context.prompt, model="")


async def test_without_a_prompt_nothing_is_hashed() -> None:
    context = begun("/somewhere")
    await take(Hash(), context)
    assert context.blocks is None
