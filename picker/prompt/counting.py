"""Exact counts of prompt tokens, where an operator wants them: off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from picker.prompt.forms import Prompt
from policies.limits.plan import matches

_LONG_BYTES: Final = 1 << 17
_MOST_WAITING_BYTES: Final = 8 << 20
"""Of long texts: a few seconds of work."""


class Tokenizer(Protocol):
    """A model's own."""

    def count(self, texts: Sequence[str]) -> int:
        """Tokens of all the texts. Called in a thread."""
        ...


class Counting:
    """Tokenizers by patterns of the models that they are for; the first that fits counts.

    One thread for short texts and one for long ones: what waits for them delays only requests to
    these models, and who sends long prompts delays no short ones. Who would have to wait long gets
    no count.
    """

    def __init__(self, tokenizers: Sequence[tuple[str, Tokenizer]] = ()) -> None:
        self.configure(tokenizers)
        self._short = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="tokenizer-long")
        self._waiting_bytes = 0

    def configure(self, tokenizers: Sequence[tuple[str, Tokenizer]]) -> None:
        """Use these from now on."""
        self._tokenizers = tuple(tokenizers)

    def knows(self, model: str) -> bool:
        """Some tokenizer is for the model."""
        return bool(self._tokenizers) and any(
            matches(model, (pattern,)) for pattern, _ in self._tokenizers
        )

    async def tokens(self, model: str, prompt: Prompt) -> int | None:
        """Tokens of the prompt's text; None when no tokenizer is for the model, or there is too
        much to count."""
        for pattern, tokenizer in self._tokenizers:
            if matches(model, (pattern,)):
                return await self._counted(tokenizer, prompt)
        return None

    async def _counted(self, tokenizer: Tokenizer, prompt: Prompt) -> int | None:
        loop = asyncio.get_running_loop()
        size = len(prompt.shared) + sum(map(len, prompt.sequences))
        if size <= _LONG_BYTES:
            return await loop.run_in_executor(self._short, _count, tokenizer, prompt)
        if self._waiting_bytes + size > _MOST_WAITING_BYTES:
            return None
        self._waiting_bytes += size
        counting = loop.run_in_executor(self._long, _count, tokenizer, prompt)
        counting.add_done_callback(lambda _: self._done(size))
        return await counting

    def _done(self, size: int) -> None:
        self._waiting_bytes -= size


def _count(tokenizer: Tokenizer, prompt: Prompt) -> int:
    shared = 0
    if prompt.shared:
        shared = tokenizer.count([prompt.shared.decode("utf-8", "replace")])
    texts = [text.decode("utf-8", "replace") for text in prompt.sequences]
    return tokenizer.count(texts) + shared * len(texts)
