"""The seam to the engines' own tokenizers: the token ids of a prompt, asked of a replica."""

from __future__ import annotations

from typing import Protocol


class EngineTokens(Protocol):
    """Asks replicas for the tokens that they make of a prompt."""

    def can_tokenize(self, pool: str) -> bool:
        """Replicas of the pool answer, as far as is known."""
        ...

    async def ids(self, pool: str, address: str, body: bytes) -> bytes | None:
        """Token ids of a prompt or a conversation, 4 bytes each in this machine's order; None when
        the replica does not say. ``body``: a request's, as JSON."""
        ...


class NoEngineTokens:
    """Nobody is asked."""

    def can_tokenize(self, pool: str) -> bool:
        """See `EngineTokens`."""
        return False

    async def ids(self, pool: str, address: str, body: bytes) -> bytes | None:
        """See `EngineTokens`."""
        return None
