"""A limiter that keeps what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from picker.request.caller import Caller
from picker.request.grant import Grant
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from policies.limits.types import Standing
from policies.limits.verdict import Denied


@dataclass
class Held:
    """A grant that tells its `Accounts`."""

    accounts: Accounts
    expected: Usage
    standings: tuple[Standing, ...]
    ticket: str = "a ticket"

    def settle(self, usage: Usage) -> None:
        """See `picker.request.grant.Grant`."""
        self.accounts.settled.append(usage)

    def release(self) -> None:
        """See `picker.request.grant.Grant`."""
        self.accounts.released += 1

    def lapse(self) -> None:
        """See `picker.request.grant.Grant`."""
        self.accounts.lapsed += 1


@dataclass
class Accounts:
    """Lets everything pass, or refuses everything; `picker.seams.limiter.Limiter`."""

    standings: tuple[Standing, ...] = ()
    denied: Denied | None = None
    settled: list[Usage] = field(default_factory=list)
    released: int = 0
    lapsed: int = 0
    reserved: int = 0
    asked: list[tuple[Subject, Usage]] = field(default_factory=list)
    """What each reservation was for."""

    async def reserve(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        subject: Subject,
        expected: Usage,
        *,
        guessed: bool,
    ) -> Grant | Denied | None:
        """See `picker.seams.limiter.Limiter`."""
        if self.denied is not None:
            return self.denied
        self.reserved += 1
        self.asked.append((subject, expected))
        return Held(self, expected, self.standings)

    async def spent(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        least: Usage,
    ) -> Denied | None:
        """See `picker.seams.limiter.Limiter`."""
        return self.denied

    def settle_orphan(self, report: object) -> None:
        """See `picker.seams.limiter.Limiter`."""
        raise AssertionError(f"no orphan is expected here: {report}")

    def clear(self) -> None:
        """As if nothing had happened."""
        self.settled.clear()
        self.asked.clear()
        self.reserved = self.released = self.lapsed = 0
