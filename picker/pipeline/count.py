"""Step: exact tokens of the prompt's text, where an operator has named a tokenizer."""

from __future__ import annotations

from picker.prompt.counting import Counting
from picker.request.context import RequestContext


class Count:
    """Waits for the tokenizer's thread, if the model has one."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting

    async def __call__(self, context: RequestContext) -> None:
        if context.prompt is not None:
            context.counted_tokens = await self._counting.tokens(
                context.served_model, context.prompt
            )
