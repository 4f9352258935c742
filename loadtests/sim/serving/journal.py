"""The seam between an engine and a publisher of what its prefix cache holds."""

from collections.abc import Sequence as Ordered
from typing import Protocol

from loadtests.sim.model.kv import BlockListener


class KvJournal(BlockListener, Protocol):
    """Publishes what the prefix cache holds, with the tokens of the blocks."""

    def announce(
        self,
        block_ids: Ordered[int],
        tokens: bytes,
        adapter: str | None,
        *,
        cache_salt: str,
        session_id: str | None,
    ) -> None:
        """A sequence is submitted: these blocks will hold these tokens, from its first token on."""

    def withdraw(self, block_ids: Ordered[int]) -> None:
        """That sequence is over and stores no further block."""

    def flush(self) -> None:
        """Publish what has gathered."""

    def close(self) -> None:
        """Nothing more will come."""
