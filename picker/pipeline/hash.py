"""Step: the prompt's block hashes, by which replicas that have it cached are found."""

from __future__ import annotations

import asyncio
from typing import Final

from picker.prompt.blocks import hash_blocks
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
        model, adapter = context.served_model, context.adapter
        salt = (context.fields is not None and context.fields.cache_salt) or ""
        if not _is_long(prompt):
            context.blocks = hash_blocks(prompt, model=model, adapter=adapter, cache_salt=salt)
            return
        context.blocks = await asyncio.to_thread(
            hash_blocks, prompt, model=model, adapter=adapter, cache_salt=salt
        )


def _is_long(prompt: Prompt) -> bool:
    sequences = prompt.sequences
    if len(sequences) > _MANY_SEQUENCES:
        return True
    return len(prompt.shared) + sum(map(len, sequences)) > _LONG_BYTES
