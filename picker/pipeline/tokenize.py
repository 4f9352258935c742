"""Step: the prompt's tokens, where replicas are known by the blocks of tokens that they hold."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import orjson
import xxhash

from picker.prompt.forms import Form, Prompt
from picker.prompt.known_tokens import KnownTokens
from picker.prompt.token_blocks import TOKEN_BYTES, PromptTokens
from picker.request.claim import Claim
from picker.request.context import RequestContext
from picker.seams.engine_tokens import EngineTokens
from picker.seams.own_tokens import Asked, OwnTokens
from picker.state.pool import PoolRuntime
from picker.state.pools import Pools

log = logging.getLogger(__name__)

_WAIT_S: Final = 0.015
"""A request waits so long for an engine's answer, if it uses to come in that time. What comes later
is for the next turn."""
_OWN_WAIT_S: Final = 0.1
"""The same for a tokenizer of our own, which takes what the new part of a prompt takes."""
_LONG_BYTES: Final = 16_384
"""Longer prompts are another matter for a tokenizer."""
_NEWEST: Final = 0.2
"""Weight of the latest answer in the time that they use to take."""
_LONG_TOKENS: Final = 20_000
"""More are hashed in a thread."""
_COMMON: Final = ("add_special_tokens",)
_OF_CHAT: Final = (
    *("messages", "tools", "chat_template", "chat_template_kwargs"),
    *("add_generation_prompt", "continue_final_message", *_COMMON),
)
_OF_COMPLETIONS: Final = ("prompt", *_COMMON)
_FIELDS: Final[Mapping[Form, tuple[str, ...]]] = {
    Form.CHAT: _OF_CHAT,
    Form.COMPLETIONS: _OF_COMPLETIONS,
}
_NOT_OF_TOKENIZE: Final = ("documents", "reasoning_effort")
"""What templates may render, and engines ignore when they are asked for tokens only."""
_CHANGED: Final = ("truncate_prompt_tokens", "suffix")
"""Such a prompt is cut, or put together anew, by its engine."""


class Tokenize:
    """Token ids in the request are taken as they are; a text is tokenized here where its model is
    known, else a replica is asked, and the request waits a little. Without tokens it is routed by
    what was sent where."""

    def __init__(
        self, pools: Pools, own: OwnTokens, engine: EngineTokens, now: Callable[[], float]
    ) -> None:
        self._pools, self._own, self._engine, self._now = pools, own, engine, now
        self._known = KnownTokens()
        self._asked: dict[int, asyncio.Task[bytes | None]] = {}
        self._usual_s: dict[tuple[str, bool], float] = {}
        """By pool, and whether the prompts are long: how long answers take."""
        self._turn = 0
        self.counts: Counter[str] = Counter()
        """Prompts for pools whose events come, by who has made their tokens: "request", "own",
        "engine"; "before" for those of an earlier turn only, "none"."""

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        prompt, pool = context.prompt, self._pools.get(context.pool)
        if prompt is None or pool is None or context.tokens is not None:
            return None
        sizes = pool.cache.block_sizes
        if not sizes or len(prompt.sequences) != 1 or prompt.shared or prompt.media_items:
            return None
        if any(map((context.document or {}).get, _CHANGED)):
            return None
        return self._tokenized(context, prompt, pool, sizes)

    async def _tokenized(
        self, context: RequestContext, prompt: Prompt, pool: PoolRuntime, sizes: Sequence[int]
    ) -> None:
        ids: bytes | None
        if prompt.token_ids:
            ids, ends, by = prompt.sequences[0], True, "request"
        else:
            ids, ends, by = await self._of_text(context, prompt, pool)
        self.counts[by] += 1
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
        self, context: RequestContext, prompt: Prompt, pool: PoolRuntime
    ) -> tuple[bytes | None, bool, str]:
        """The ids, whether they are those of the whole prompt, and who has made them."""
        form, blocks = context.form, context.blocks
        if form is None or form not in _FIELDS or blocks is None or len(blocks.chains) != 1:
            return None, False, "none"
        text, chain = prompt.sequences[0], blocks.chains[0]
        salt = f"{context.served_model}\0{form}"
        seed = xxhash.xxh3_64_intdigest(salt.encode("utf-8", "surrogatepass"))
        key = xxhash.xxh3_128_intdigest(context.body, seed)
        ids, by = self._known.whole(key)
        if ids is not None and self._holds(by, pool):
            return ids, True, by
        keep = partial(self._known.keep, key, text, chain)
        keep_own = partial(keep, by="own")
        asked = _asked(context, form, prompt, pool)
        making = self._own.ids(asked) if asked is not None else None
        if asked is not None and making is not None:
            ids = making if isinstance(making, bytes) else await _awaited(making, keep_own)
            if ids is not None:
                context.claim = Claim(asked.pool, asked.model, form, len(ids) // TOKEN_BYTES)
                keep_own(ids)
                return ids, True, "own"
            if not isinstance(making, bytes) and not making.done():
                return self._before(text, chain, pool)
        answer = self._asked.get(key) or self._ask(key, keep, context, prompt, pool)
        if answer is not None:
            kind = pool.name, len(text) > _LONG_BYTES
            if self._usual_s.get(kind, 0.0) <= _WAIT_S:
                await asyncio.wait((answer,), timeout=_WAIT_S)
            if answer.done() and not answer.cancelled() and (ids := answer.result()) is not None:
                return ids, True, "engine"
        return self._before(text, chain, pool)

    def _before(
        self, text: bytes, chain: Sequence[int], pool: PoolRuntime
    ) -> tuple[bytes | None, bool, str]:
        ids, by = self._known.beginning(text, chain)
        if ids is None or not self._holds(by, pool):
            return None, False, "none"
        return ids, False, "before"

    def _holds(self, by: str, pool: PoolRuntime) -> bool:
        """Tokens that were made so can still be used."""
        return by != "own" or not self._own.doubted(pool.name)

    def _ask(
        self,
        key: int,
        keep: Callable[[bytes], None],
        context: RequestContext,
        prompt: Prompt,
        pool: PoolRuntime,
    ) -> asyncio.Task[bytes | None] | None:
        if not self._engine.can_tokenize(pool.name):
            return None
        body = _body(context)
        slots = pool.state.candidates(self._now())
        slots = slots[pool.state.models.serving(context.served_model)[slots]]
        if body is None or not slots.size:
            return None
        self._turn += 1
        address = pool.state.address_of(int(slots[self._turn % slots.size]))
        kind = pool.name, len(prompt.sequences[0]) > _LONG_BYTES
        asked_s = self._now()

        async def ask() -> bytes | None:
            try:
                ids = await self._engine.ids(pool.name, address, body)
            finally:
                del self._asked[key]
            took_s = self._now() - asked_s
            before_s = self._usual_s.get(kind, took_s)
            self._usual_s[kind] = before_s + _NEWEST * (took_s - before_s)
            if ids is not None:
                keep(ids)
            return ids

        task = asyncio.get_running_loop().create_task(ask())
        self._asked[key] = task
        return task


async def _awaited(
    making: asyncio.Future[bytes | None], keep: Callable[[bytes], None]
) -> bytes | None:
    """The ids, if they come in time; else they are kept when they come."""
    await asyncio.wait((making,), timeout=_OWN_WAIT_S)
    if making.done():
        return _result(making)

    def late(done: asyncio.Future[bytes | None]) -> None:
        ids = _result(done)
        if ids is not None:
            keep(ids)

    making.add_done_callback(late)
    return None


def _result(done: asyncio.Future[bytes | None]) -> bytes | None:
    if done.cancelled():
        return None
    error = done.exception()
    if error is not None:
        log.error("a prompt could not be tokenized", exc_info=error)
        return None
    return done.result()


def _asked(context: RequestContext, form: Form, prompt: Prompt, pool: PoolRuntime) -> Asked | None:
    """What a tokenizer of our own is asked; None: the model is not known."""
    models = pool.state.models.known()
    model = models.get(context.served_model)
    base = models.get(model.parent) if model is not None and model.parent else model
    text = prompt.sequences[0]
    if base is None or context.document is None:
        return None
    return Asked(
        pool=pool.name,
        model=base.id,
        root=base.root,
        form=form,
        document=context.document,
        text=text.decode("utf-8", "surrogatepass") if form is Form.COMPLETIONS else None,
        size_bytes=len(text),
        heavy_body=context.body if context.heavy and form is Form.CHAT else None,
    )


def _body(context: RequestContext) -> bytes | None:
    """What an engine is asked; None for a form that it does not tokenize."""
    fields = _FIELDS.get(context.form) if context.form is not None else None
    document = context.document
    if fields is None or document is None or any(map(document.get, _NOT_OF_TOKENIZE)):
        return None
    if context.heavy:  # its large members are in the body only
        return context.body if context.asked_model == context.served_model else None
    asked = {key: document[key] for key in fields if document.get(key) is not None}
    prompt = asked.get("prompt")
    if isinstance(prompt, list):
        asked["prompt"] = prompt[0]
    return orjson.dumps({"model": context.served_model, **asked})
