"""What a request holds of its tenant's limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from policies.limits.prices import Usage
from policies.limits.types import Standing


class Grant(Protocol):
    """A reservation, until it is settled or released. Each method returns at once."""

    @property
    def expected(self) -> Usage:
        """What was reserved: a guessed output fits into every limit."""
        ...

    @property
    def standings(self) -> Sequence[Standing]:
        """Of the buckets, after the reservation."""
        ...

    @property
    def ticket(self) -> str:
        """What any picker needs to settle it when this one is gone."""
        ...

    def settle(self, usage: Usage) -> None:
        """Charge what was used instead of what was reserved."""
        ...

    def release(self) -> None:
        """Give everything back: the request was not served."""
        ...

    def lapse(self) -> None:
        """Its end may never be reported: what it holds is given back by the lease. It can still be
        settled."""
        ...
