"""Step: exact tokens of the prompt's text, where an operator has named a tokenizer, and where an
estimate would not do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from picker.pipeline.estimate import costs_nothing
from picker.prompt.counting import Counting
from picker.prompt.forms import Prompt
from picker.prompt.measure import countable
from picker.request.context import RequestContext
from picker.seams.engine_counts import EngineCounts
from picker.state.learned import Learned
from picker.state.pools import Pools
from policies.limits.types import TOKEN_DIMENSIONS, Dimension
from policies.limits.verdict import Denied, Refusal

_OF_PROMPTS: Final = (TOKEN_DIMENSIONS | {Dimension.MONEY}) - {Dimension.OUTPUT_TOKENS}
_MOST_BYTES_PER_TOKEN: Final = 128
"""Vocabularies have tokens of so many spaces, and hardly longer ones."""


class Count:
    """Waits for the tokenizer's thread, if the model has one; else for the engine, where the
    tenant's estimates have been wrong of late and it is held to limits."""

    def __init__(self, counting: Counting, exactly: Exactly, learned: Learned) -> None:
        self._counting, self._exactly, self._learned = counting, exactly, learned

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        prompt = context.prompt
        if prompt is None or not prompt.text_bytes:
            return None
        if not (self._counting.knows(context.served_model) or self._is_unsure(context)):
            return None
        return None if costs_nothing(context.head.path) else self._count(context, prompt)

    async def _count(self, context: RequestContext, prompt: Prompt) -> None:
        context.counted_tokens = await self._counting.tokens(context.served_model, prompt)
        if context.counted_tokens is None and self._is_unsure(context):
            await self._exactly.count(context)

    def _is_unsure(self, context: RequestContext) -> bool:
        caller = context.caller
        return caller.limits_tokens and self._learned.text.is_unsure(
            caller.tenant, context.served_model
        )


class Exactly:
    """Counts a request's prompt by the engine that will serve it."""

    def __init__(self, engine: EngineCounts, pools: Pools, now: Callable[[], float]) -> None:
        self._engine, self._pools, self._now = engine, pools, now
        self._turn = 0

    def may_help(self, context: RequestContext, denied: Denied) -> bool:
        """A request was refused for ever, for its estimated prompt."""
        prompt = context.prompt
        return (
            denied.refusal is Refusal.NEVER
            and denied.bucket.dimension in _OF_PROMPTS
            and context.counted_tokens is None
            and prompt is not None
            and 0 < prompt.text_bytes <= denied.bucket.limit * _MOST_BYTES_PER_TOKEN
        )

    async def count(self, context: RequestContext) -> bool:
        """Set the context's count. False: nobody could say."""
        prompt, pool = context.prompt, self._pools.get(context.pool)
        if prompt is None or not prompt.text_bytes or pool is None:
            return False
        if not self._engine.can_count(pool.name):
            return False
        slots = pool.state.candidates(self._now())
        slots = slots[pool.state.models.serving(context.served_model)[slots]]
        if slots.size:
            self._turn += 1
            address = pool.state.address_of(int(slots[self._turn % slots.size]))
            where = pool.name, address, context.served_model
            count = await self._engine.tokens(*where, countable(prompt))
            if count is not None and prompt.shared:
                each = await self._engine.tokens(*where, (prompt.shared,))
                count = None if each is None else count + each * len(prompt.sequences)
            context.counted_tokens = count
        return context.counted_tokens is not None
