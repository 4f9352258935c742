"""The seam to what is known about prefix caches: approximate from what was sent, or exact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from picker.prompt.blocks import Blocks
from picker.prompt.token_blocks import PromptTokens
from policies.routing.types import Floats


@dataclass(frozen=True, slots=True)
class Reuse:
    """What an engine has reported of a request that it has answered."""

    prompt_tokens: int
    cached_tokens: int | None
    """Of the prompt: those that it took from its cache; None: it does not say."""
    output_tokens: int
    believed_tokens: float
    """Of the prompt: what was believed to be cached when the request was sent there."""
    sent_s: float
    """When that was, picker's clock."""


class CacheIndex(Protocol):
    """Which endpoint of a pool has how much of a prompt cached, by slot."""

    def match(
        self, blocks: Blocks, prompt_tokens: float, slots: int, tokens: PromptTokens | None = None
    ) -> Floats:
        """Tokens of the longest contiguous cached prefix by slot, shape (``slots``,).
        ``prompt_tokens``: of the whole prompt. ``tokens``: None when they are not known."""
        ...

    def sent(
        self, slot: int, chains: Iterable[Sequence[int]], tokens: PromptTokens | None = None
    ) -> Sequence[int]:
        """A request with these chains of block hashes was sent to ``slot``. Returns how many
        blocks of each chain, at its end, nobody had sent there before."""
        ...

    def take_back(self, slot: int, chains: Iterable[Sequence[int]], added: Iterable[int]) -> None:
        """A request that was ``sent`` there has failed before it was prefilled: forget what it
        alone has added. ``added``: what `sent` returned."""

    def answered(self, slot: int, chains: Iterable[Sequence[int]], reuse: Reuse) -> None:
        """A request that was ``sent`` there has been answered: what is believed is corrected by
        what its engine has reported."""

    def reset(self, slot: int) -> None:
        """Forget what ``slot`` holds: its endpoint is gone, or has lost its cache."""

    def set_capacity(self, slot: int, capacity_tokens: float, bytes_per_token: float) -> None:
        """Bound ``slot`` by the size of its engine's KV cache; 0 tokens = unknown."""
