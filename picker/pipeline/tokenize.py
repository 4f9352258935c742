"""Step: the prompt's tokens, where replicas are known by the blocks of tokens that they hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import orjson
import xxhash

from picker.prompt.forms import Form, Prompt
from picker.prompt.known_tokens import KnownTokens
from picker.prompt.token_blocks import PromptTokens
from picker.request.context import RequestContext
from picker.seams.engine_tokens import EngineTokens
from picker.state.pool import PoolRuntime
from picker.state.pools import Pools

log = logging.getLogger(__name__)

_WAIT_S: Final = 0.015
"""A request waits so long for its tokens, if they use to come in that time. What comes later is
for the next turn."""
_LONG_BYTES: Final = 16_384
"""Longer prompts are another matter for a tokenizer."""
_NEWEST: Final = 0.2
"""Weight of the latest answer in the time that they use to take."""
_LONG_TOKENS: Final = 20_000
"""More are hashed in a thread."""
_COMMON: Final = ("add_special_tokens",)
_OF_CHAT: Final = (
    *("messages", "tools", "chat_template", "chat_template_kwargs", "documents"),
    *("add_generation_prompt", "continue_final_message", "reasoning_effort", *_COMMON),
)
_OF_COMPLETIONS: Final = ("prompt", *_COMMON)
_FIELDS: Final[Mapping[Form, tuple[str, ...]]] = {
    Form.CHAT: _OF_CHAT,
    Form.COMPLETIONS: _OF_COMPLETIONS,
}
_FLAGS: Final = ("add_generation_prompt", "continue_final_message", *_COMMON)


class Tokenize:
    """Token ids in the request are taken as they are; of a text, the replicas are asked, and the
    request waits a little. Without tokens it is routed by what was sent where."""

    def __init__(self, pools: Pools, engine: EngineTokens, now: Callable[[], float]) -> None:
        self._pools, self._engine, self._now = pools, engine, now
        self._known = KnownTokens()
        self._asked: dict[int, asyncio.Task[bytes | None]] = {}
        self._usual_s: dict[tuple[str, bool], float] = {}
        """By pool, and whether the prompts are long: how long answers take."""
        self._turn = 0

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        prompt, pool = context.prompt, self._pools.get(context.pool)
        if prompt is None or pool is None or context.tokens is not None:
            return None
        sizes = pool.cache.block_sizes
        if not sizes or len(prompt.sequences) != 1 or prompt.shared or prompt.media_items:
            return None
        return self._tokenized(context, prompt, pool, sizes)

    async def _tokenized(
        self, context: RequestContext, prompt: Prompt, pool: PoolRuntime, sizes: Sequence[int]
    ) -> None:
        ids: bytes | None
        if prompt.token_ids:
            ids, ends = prompt.sequences[0], True
        else:
            ids, ends = await self._of_text(context, pool)
        if ids is None:
            return
        salt = context.fields.cache_salt if context.fields is not None else None
        tokens = PromptTokens(ids, context.adapter, salt or "", ends=ends)
        for size in sizes:
            if len(tokens) > _LONG_TOKENS:
                await asyncio.to_thread(tokens.chain, size)
            else:
                tokens.chain(size)
        context.tokens = tokens
        if ends:
            context.prompt_tokens = float(len(tokens))

    async def _of_text(
        self, context: RequestContext, pool: PoolRuntime
    ) -> tuple[bytes | None, bool]:
        """The ids, and whether they are those of the whole prompt."""
        prompt, blocks = context.prompt, context.blocks
        if prompt is None or blocks is None or len(blocks.chains) != 1:
            return None, False
        text, chain = prompt.sequences[0], blocks.chains[0]
        document = context.document or {}
        flags = [document.get(flag) for flag in _FLAGS]
        salt = f"{context.served_model}\0{context.form}\0{flags}"
        seed = xxhash.xxh3_64_intdigest(salt.encode("utf-8", "surrogatepass"))
        key = xxhash.xxh3_128_intdigest(text, seed)
        ids = self._known.whole(key)
        if ids is not None:
            return ids, True
        asked = self._asked.get(key) or self._ask(key, context, pool)
        if asked is not None:
            kind = pool.name, len(text) > _LONG_BYTES
            if self._usual_s.get(kind, 0.0) <= _WAIT_S:
                await asyncio.wait((asked,), timeout=_WAIT_S)
            if asked.done() and not asked.cancelled() and (ids := asked.result()) is not None:
                return ids, True
        return self._known.beginning(text, chain), False

    def _ask(
        self, key: int, context: RequestContext, pool: PoolRuntime
    ) -> asyncio.Task[bytes | None] | None:
        prompt, blocks = context.prompt, context.blocks
        assert prompt is not None
        assert blocks is not None
        if not self._engine.can_tokenize(pool.name):
            return None
        body = _body(context)
        slots = pool.state.candidates(self._now())
        slots = slots[pool.state.models.serving(context.served_model)[slots]]
        if body is None or not slots.size:
            return None
        self._turn += 1
        address = pool.state.address_of(int(slots[self._turn % slots.size]))
        text, chain = prompt.sequences[0], blocks.chains[0]

        kind, asked_s = (pool.name, len(text) > _LONG_BYTES), self._now()

        async def ask() -> bytes | None:
            try:
                ids = await self._engine.ids(pool.name, address, body)
            finally:
                del self._asked[key]
            took_s = self._now() - asked_s
            before_s = self._usual_s.get(kind, took_s)
            self._usual_s[kind] = before_s + _NEWEST * (took_s - before_s)
            if ids is not None:
                self._known.keep(key, text, chain, ids)
            return ids

        task = asyncio.get_running_loop().create_task(ask())
        self._asked[key] = task
        return task


def _body(context: RequestContext) -> bytes | None:
    """What an engine is asked; None for a form that it does not tokenize."""
    fields = _FIELDS.get(context.form) if context.form is not None else None
    document = context.document
    if fields is None or document is None:
        return None
    if context.heavy:  # its large members are in the body only
        return context.body if context.asked_model == context.served_model else None
    asked = {key: document[key] for key in fields if document.get(key) is not None}
    prompt = asked.get("prompt")
    if isinstance(prompt, list):
        asked["prompt"] = prompt[0]
    return orjson.dumps({"model": context.served_model, **asked})
