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

    def sent(self, slot: int, chains: Iterable[Sequence[int]]) -> None:
        """A request with these chains of block hashes was sent to ``slot``."""

    def reset(self, slot: int) -> None:
        """Forget what ``slot`` holds: its endpoint is gone, or has lost its cache."""

    def set_capacity(self, slot: int, capacity_tokens: float, bytes_per_token: float) -> None:
        """Bound ``slot`` by the size of its engine's KV cache; 0 tokens = unknown."""
