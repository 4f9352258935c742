"""The seam to the engines' own tokenizers: exact counts of prompts, asked of a replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class EngineCounts(Protocol):
    """Asks replicas how many tokens a text has."""

    def can_count(self, pool: str) -> bool:
        """Replicas of the pool answer, as far as is known."""
        ...

    async def tokens(
        self, pool: str, address: str, model: str, texts: Sequence[bytes]
    ) -> int | None:
        """Tokens of all the texts; None when the replica does not say in time."""
        ...


class NoEngineCounts:
    """Nobody is asked."""

    def can_count(self, pool: str) -> bool:
        """See `EngineCounts`."""
        return False

    async def tokens(
        self, pool: str, address: str, model: str, texts: Sequence[bytes]
    ) -> int | None:
        """See `EngineCounts`."""
        return None
