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
class Accounts:
    """Lets everything pass, or refuses everything; `picker.seams.limiter.Limiter`."""

    standings: tuple[Standing, ...] = ()
    denied: Denied | None = None
    settled: list[Usage] = field(default_factory=list)
    released: int = 0
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
        return Grant(
            id=id,
            subject=subject,
            key=caller.key,
            expected=expected,
            price=None,
            meters=(),
            standings=self.standings,
            ticket="a ticket",
        )

    def settle(self, grant: Grant, usage: Usage) -> None:
        """See `picker.seams.limiter.Limiter`."""
        self.settled.append(usage)

    def release(self, grant: Grant) -> None:
        """See `picker.seams.limiter.Limiter`."""
        self.released += 1

    def lapse(self, grant: Grant) -> None:
        """See `picker.seams.limiter.Limiter`."""

    def settle_orphan(self, report: object) -> None:
        """See `picker.seams.limiter.Limiter`."""
        raise AssertionError(f"no orphan is expected here: {report}")

    def clear(self) -> None:
        """As if nothing had happened."""
        self.settled.clear()
        self.asked.clear()
        self.reserved = self.released = 0
