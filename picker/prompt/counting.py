"""Exact counts of prompt tokens, where an operator wants them: off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from picker.prompt.forms import Prompt
from policies.limits.plan import matches


class Tokenizer(Protocol):
    """A model's own."""

    def count(self, texts: Sequence[str]) -> int:
        """Tokens of all the texts. Called in a thread."""
        ...


class Counting:
    """Tokenizers by patterns of the models that they are for; the first that fits counts.

    One thread: what waits for it delays only requests to these models.
    """

    def __init__(self, tokenizers: Sequence[tuple[str, Tokenizer]] = ()) -> None:
        self.configure(tokenizers)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    def configure(self, tokenizers: Sequence[tuple[str, Tokenizer]]) -> None:
        """Use these from now on."""
        self._tokenizers = tuple(tokenizers)

    async def tokens(self, model: str, prompt: Prompt) -> int | None:
        """Tokens of the prompt's text; None when no tokenizer is for the model."""
        for pattern, tokenizer in self._tokenizers:
            if matches(model, (pattern,)):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, _count, tokenizer, prompt)
        return None


def _count(tokenizer: Tokenizer, prompt: Prompt) -> int:
    shared = 0
    if prompt.shared:
        shared = tokenizer.count([prompt.shared.decode("utf-8", "replace")])
    texts = [text.decode("utf-8", "replace") for text in prompt.sequences]
    return tokenizer.count(texts) + shared * len(texts)
