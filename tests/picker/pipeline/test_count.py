"""Exact tokens: by a tokenizer that is named for the model, else by the engine where an estimate
would not do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from picker.pipeline.count import Count, Exactly
from picker.pipeline.estimate import Estimate
from picker.pipeline.reserve import Reserve
from picker.prompt.counting import Counting
from picker.request.caller import Caller
from picker.request.context import RequestContext
from picker.request.rejection import Reason
from picker.seams.engine_counts import NoEngineCounts
from picker.state.learned import Learned
from policies.limits.plan import LimitRule, TenantPolicy
from policies.limits.types import Bucket, Dimension, Period, TokenBucket
from policies.limits.verdict import Denied, Refusal
from tests.picker.accounts import Accounts
from tests.picker.fleet import MODEL, POOL, Fleet, fleet
from tests.picker.pipeline.steps import begun, parsed, refusal, take

LIMITED = TenantPolicy(
    "acme",
    rules=(LimitRule("t", Dimension.TOTAL_TOKENS, TokenBucket.per(Period.MINUTE, 10_000)),),
)


class Words:
    """A tokenizer whose tokens are words."""

    def count(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) for text in texts)


@dataclass
class Engine:
    """Replicas whose tokens are ten bytes."""

    asked: list[str] = field(default_factory=list)
    able: bool = True

    def can_count(self, pool: str) -> bool:
        return self.able and pool == POOL

    async def tokens(
        self, pool: str, address: str, model: str, texts: Sequence[bytes]
    ) -> int | None:
        self.asked.append(address)
        return sum(len(text) // 10 for text in texts)


@dataclass
class Small(Accounts):
    """Grants up to 8,000 tokens of input."""

    async def reserve(self, id, caller, subject, expected, *, guessed):  # type: ignore[no-untyped-def]  # noqa: A002, ANN001, ANN201
        bucket = Bucket("t", Dimension.TOTAL_TOKENS, TokenBucket.per(Period.MINUTE, 8_000))
        too_large = expected.input_tokens > 8_000
        self.denied = Denied(bucket, Refusal.NEVER, None, ()) if too_large else None
        return await super().reserve(id, caller, subject, expected, guessed=guessed)


def exactly(made: Fleet, engine: Engine | NoEngineCounts) -> Exactly:
    return Exactly(engine, made.picker.pools, made.picker.now)


async def from_acme(prompt: str) -> RequestContext:
    context = await parsed({"model": MODEL, "prompt": prompt, "max_tokens": 1})
    context.served_model, context.pool, context.caller = MODEL, POOL, Caller(LIMITED)
    return context


async def test_only_models_that_have_a_tokenizer_are_counted() -> None:
    made = fleet()
    counting = Counting([("small-*", Words())])
    count = Count(counting, exactly(made, NoEngineCounts()), made.picker.learned)
    for model, tokens in (("small-1", 5), ("large", None)):
        context = await parsed({"model": model, "prompt": ["one two", "three four five"]})
        context.served_model = model
        await take(count, context)
        assert context.counted_tokens == tokens
    counting.configure([("*", Words())])
    await take(count, context)
    assert context.counted_tokens == 5


class Slow(Words):
    """Long texts take until ``go``."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def count(self, texts: Sequence[str]) -> int:
        if len(texts[0]) > 200_000:
            assert self.go.wait(10)
        return super().count(texts)


async def test_long_prompts_delay_no_short_ones_and_are_not_counted_without_end() -> None:
    slow = Slow()
    counting = Counting([("*", slow)])

    async def counted(text: str) -> int | None:
        return await counting.tokens("m", (await from_acme(text)).prompt or pytest.fail("none"))

    long = [asyncio.create_task(counted("word " * 500_000)) for _ in range(5)]
    done, _ = await asyncio.wait(long, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result() for task in done} == {None}, "only so much waits"
    assert await counted("one two") == 2
    slow.go.set()
    assert sorted(await asyncio.gather(*long), key=bool) == [None, None, *[500_000] * 3]
    assert await counted("word " * 500_000) == 500_000


@pytest.mark.parametrize(
    ("path", "prompt"), [("/tokenize", "one two"), ("/v1/completions", [538976288] * 9)]
)
async def test_what_runs_no_model_and_token_ids_are_not_counted(path: str, prompt: object) -> None:
    made, counting = fleet(), Counting([("*", Words())])
    context = await parsed({"model": "m", "prompt": prompt}, path)
    await take(Count(counting, exactly(made, NoEngineCounts()), made.picker.learned), context)
    assert context.counted_tokens is None


async def test_a_query_counts_for_each_document() -> None:
    context = await parsed(
        {"model": "m", "query": "two words", "documents": ["a", "b c", "d"]}, "/v1/rerank"
    )
    context.served_model = "m"
    made, counting = fleet(), Counting([("*", Words())])
    await take(Count(counting, exactly(made, NoEngineCounts()), made.picker.learned), context)
    assert context.counted_tokens == 3 * 2 + 4


async def test_without_a_prompt_there_is_nothing_to_count() -> None:
    context = begun("/somewhere")
    made = fleet()
    counting = Counting([("*", Words())])
    await take(Count(counting, exactly(made, Engine()), made.picker.learned), context)
    assert context.counted_tokens is None


async def test_a_tenant_whose_estimates_were_wrong_is_counted_by_the_engine() -> None:
    made, engine, learned = fleet(), Engine(), Learned()
    count = Count(Counting(), exactly(made, engine), learned)
    await take(count, await from_acme("x" * 400))
    assert not engine.asked
    for tokens in (500, 20_000) * 10:
        learned.text.observe("acme", MODEL, 20_000, tokens)
        learned.text.observe("steady", MODEL, 4_000, 1_000)
    for _ in range(4):
        context = await from_acme("x" * 400)
        await take(count, context)
        assert context.counted_tokens == 40
    assert len(set(engine.asked)) > 1, "not always the same replica"
    context.counted_tokens, context.caller = None, Caller(TenantPolicy("acme"))
    await take(count, context)
    assert context.counted_tokens is None, "who has no limits of tokens needs no count"


async def test_documents_that_share_a_query_and_many_texts() -> None:
    made, engine = fleet(), Engine()
    body: dict[str, object] = {"model": MODEL, "query": "q" * 100, "documents": ["d" * 50] * 3}
    context = await parsed(body, "/v1/rerank")
    context.served_model, context.pool = MODEL, POOL
    assert await exactly(made, engine).count(context)
    assert context.counted_tokens == pytest.approx(3 * 15, abs=2)
    many = await parsed({"model": MODEL, "prompt": ["x" * 9] * 1_000})
    many.served_model, many.pool, engine.asked = MODEL, POOL, []
    assert await exactly(made, engine).count(many)
    assert many.counted_tokens == 999
    assert len(engine.asked) == 1


async def test_what_would_be_refused_for_ever_is_counted_and_tried_again() -> None:
    made, engine, accounts = fleet(), Engine(), Small()
    learned = made.picker.learned
    estimate = Estimate(made.picker.catalog, learned, 256.0)
    reserve = Reserve(accounts, exactly(made, engine), estimate)
    context = await from_acme("x" * 60_000)
    await take(estimate, context)
    assert context.expected.input_tokens == 15_000
    await take(reserve, context)
    assert context.expected.input_tokens == 6_000
    assert len(engine.asked) == 1
    small = await from_acme("x" * 6_000)
    await take(estimate, small)
    await take(reserve, small)
    assert len(engine.asked) == 1, "an estimate that fits is good enough"
    large = await from_acme("x" * 160_000)
    await take(estimate, large)
    await refusal(reserve, large, Reason.TOKENS_LIMITED)
    hopeless = await from_acme("x" * 1_040_000)
    await take(estimate, hopeless)
    await refusal(reserve, hopeless, Reason.TOKENS_LIMITED)
    assert len(engine.asked) == 2, "that can be no 8,000 tokens"
    engine.able = False
    unknown = await from_acme("x" * 60_000)
    await take(estimate, unknown)
    await refusal(reserve, unknown, Reason.TOKENS_LIMITED)
