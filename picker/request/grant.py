"""What a request holds of its tenant's limits."""

from __future__ import annotations

from dataclasses import dataclass

from policies.limits.plan import Meter, Subject
from policies.limits.prices import Cost, Usage
from policies.limits.types import Standing


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request holds until it is settled or released."""

    id: str
    """Of the reservation: the request's own."""
    subject: Subject
    key: str
    """Id of the API key, for the usage ledger."""
    expected: Usage
    """What was reserved: a guessed output fits into every limit."""
    price: Cost | None
    """Of the model when it was asked for, for the ledger; None: free."""
    meters: tuple[Meter, ...]
    standings: tuple[Standing, ...]
    """Of the buckets, after the reservation."""
    ticket: str
    """What any picker needs to settle it when this one is gone."""
