"""The seam to what is known about prefix caches: approximate from what was sent, or exact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from picker.prompt.blocks import Blocks
from policies.routing.types import Floats


class CacheIndex(Protocol):
    """Which endpoint of a pool has how much of a prompt cached, by slot."""

    def match(self, blocks: Blocks, prompt_tokens: float, slots: int) -> Floats:
        """Tokens of the longest contiguous cached prefix by slot, shape (``slots``,).
        ``prompt_tokens``: of the whole prompt."""
        ...

    def sent(self, slot: int, chains: Iterable[Sequence[int]]) -> Sequence[int]:
        """A request with these chains of block hashes was sent to ``slot``. Returns how many
        blocks of each chain, at its end, nobody had sent there before."""
        ...

    def take_back(self, slot: int, chains: Iterable[Sequence[int]], added: Iterable[int]) -> None:
        """A request that was ``sent`` there has failed before it was prefilled: forget what it
        alone has added. ``added``: what `sent` returned."""

    def reset(self, slot: int) -> None:
        """Forget what ``slot`` holds: its endpoint is gone, or has lost its cache."""

    def set_capacity(self, slot: int, capacity_tokens: float, bytes_per_token: float) -> None:
        """Bound ``slot`` by the size of its engine's KV cache; 0 tokens = unknown."""
