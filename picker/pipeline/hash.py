"""Step: the prompt's block hashes, by which replicas that have it cached are found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from picker.prompt.blocks import Blocks, hash_blocks
from picker.prompt.forms import Prompt
from picker.request.context import RequestContext

_LONG_BYTES: Final = 2_000_000
_MANY_SEQUENCES: Final = 2_000


class Hash:
    """After the limits, which need no hashes. A long prompt is hashed in a thread."""

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        prompt = context.prompt
        if prompt is None or context.blocks is not None:
            return None
        if _is_long(prompt):
            return _hash_apart(context, prompt)
        context.blocks = _hashed(context, prompt)
        return None


async def _hash_apart(context: RequestContext, prompt: Prompt) -> None:
    context.blocks = await asyncio.to_thread(_hashed, context, prompt)


def _hashed(context: RequestContext, prompt: Prompt) -> Blocks:
    return hash_blocks(
        prompt,
        model=context.served_model,
        adapter=context.adapter,
        cache_salt=(context.fields is not None and context.fields.cache_salt) or "",
    )


def _is_long(prompt: Prompt) -> bool:
    sequences = prompt.sequences
    if len(sequences) > _MANY_SEQUENCES:
        return True
    return len(prompt.shared) + sum(map(len, sequences)) > _LONG_BYTES
