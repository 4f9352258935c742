"""The seam to tenants' limits: reserve at arrival, settle at the end."""

from __future__ import annotations

from typing import Protocol

from picker.request.caller import Caller
from picker.request.grant import Grant
from picker.request.report import Report
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from policies.limits.verdict import Denied


class LimitsUnavailable(Exception):  # noqa: N818 - a state of the world
    """The store of limits is away, and the tenant's limits fail closed."""


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

    async def spent(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        least: Usage,
    ) -> Denied | None:
        """The verdict that every request of the caller would get now that takes ``least`` or more,
        whatever its body asks for; None: that depends on the body. Reserves nothing."""
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

    async def spent(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        least: Usage,
    ) -> Denied | None:
        """See `Limiter`."""
        return None

    def settle_orphan(self, report: Report) -> None:
        """See `Limiter`."""
