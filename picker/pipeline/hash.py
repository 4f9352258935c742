"""Step: the prompt's block hashes, by which replicas that have it cached are found."""

from __future__ import annotations

import asyncio
from typing import Final

from picker.prompt.blocks import Blocks, hash_blocks
from picker.prompt.forms import Prompt
from picker.request.context import RequestContext

_LONG_BYTES: Final = 2_000_000
_MANY_SEQUENCES: Final = 2_000


class Hash:
    """After the limits, which need no hashes. A long prompt is hashed in a thread."""

    async def __call__(self, context: RequestContext) -> None:
        prompt = context.prompt
        if prompt is None or context.blocks is not None:
            return
        salt = context.fields.cache_salt if context.fields is not None else None
        names = context.served_model, context.adapter, salt or ""
        if _is_long(prompt):
            context.blocks = await asyncio.to_thread(_hashed, prompt, *names)
        else:
            context.blocks = _hashed(prompt, *names)


def _is_long(prompt: Prompt) -> bool:
    sequences = prompt.sequences
    if len(sequences) > _MANY_SEQUENCES:
        return True
    return len(prompt.shared) + sum(map(len, sequences)) > _LONG_BYTES


def _hashed(prompt: Prompt, model: str, adapter: str, cache_salt: str) -> Blocks:
    return hash_blocks(prompt, model=model, adapter=adapter, cache_salt=cache_salt)
