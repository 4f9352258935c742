"""The seam to tenants' limits: reserve at arrival, settle at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from picker.caller import Caller
from picker.completion import Report
from policies.limits.plan import Meter, Subject
from policies.limits.prices import Cost, Usage
from policies.limits.types import Standing
from policies.limits.verdict import Denied


class LimitsUnavailable(Exception):  # noqa: N818 - a state of the world
    """The store of limits is away, and the tenant's limits fail closed."""


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


class Limiter(Protocol):
    """Holds tenants to their limits and keeps their accounts."""

    async def reserve(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        subject: Subject,
        expected: Usage,
        *,
        guessed: bool,
    ) -> Grant | Denied | None:
        """Reserve ``expected`` in every bucket of the request, or in none. None: there is nothing
        to limit or to account for. ``guessed``: the request does not bound its output, so less of
        that may be reserved. Raises LimitsUnavailable."""
        ...

    def settle(self, grant: Grant, usage: Usage) -> None:
        """Charge what was used instead of what was reserved. Returns at once."""
        ...

    def release(self, grant: Grant) -> None:
        """Give everything back: the request was not served. Returns at once."""
        ...

    def lapse(self, grant: Grant) -> None:
        """Its end may never be told: what it holds is given back by the lease. It can still be
        settled."""
        ...

    def settle_orphan(self, report: Report) -> None:
        """Settle a request by its ticket: the picker that decided it is gone."""
        ...


class Unlimited:
    """No limits and no accounts."""

    async def reserve(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        subject: Subject,
        expected: Usage,
        *,
        guessed: bool,
    ) -> Grant | Denied | None:
        """See `Limiter`."""
        return None

    def settle(self, grant: Grant, usage: Usage) -> None:
        """See `Limiter`."""

    def release(self, grant: Grant) -> None:
        """See `Limiter`."""

    def lapse(self, grant: Grant) -> None:
        """See `Limiter`."""

    def settle_orphan(self, report: Report) -> None:
        """See `Limiter`."""
