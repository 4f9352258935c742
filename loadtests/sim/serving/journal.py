"""The seam between an engine and whoever tells others what its prefix cache holds."""

from collections.abc import Sequence as Ordered
from typing import Protocol

from loadtests.sim.model.kv import BlockListener


class KvJournal(BlockListener, Protocol):
    """Tells others what the prefix cache holds, and in what tokens."""

    def announce(
        self,
        block_ids: Ordered[int],
        tokens: bytes,
        adapter: str | None,
        *,
        cache_salt: str,
        session_id: str | None,
    ) -> None:
        """What the blocks of a sequence will hold, from its first token on."""

    def withdraw(self, block_ids: Ordered[int]) -> None:
        """That sequence will store no more."""

    def flush(self) -> None:
        """Send what has gathered."""

    def close(self) -> None:
        """Nothing comes any more."""
