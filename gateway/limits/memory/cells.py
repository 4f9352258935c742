"""What a memory store remembers of each tenant: its tallies and its reservations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.tally import Count, Hold, Tally
from policies.limits.types import Take, tally_of


class Cell(Tally):
    """A tally of a tenant."""

    __slots__ = ("key", "tenant")

    def __init__(self, tenant: Tenant, key: str, now_ms: int) -> None:
        super().__init__(now_ms)
        self.tenant, self.key = tenant, key


class Tenant:
    """Small: there is one for each tenant that has used something."""

    __slots__ = ("cells", "name", "reservations")

    def __init__(self, name: str) -> None:
        self.name = name
        self.cells: dict[str, Cell] = {}
        self.reservations: dict[str, Reservation] | None = None


@dataclass(slots=True)
class Reservation:
    """A remembered reservation."""

    id: str
    tenant: Tenant
    holds: Sequence[Hold]
    """(): it is settled, and is only left in the heap."""
    lease_until_ms: int
    """By the steady clock."""
    expired: bool = False
    settled: bool = False


def any_of_other_rules(cells: Sequence[Cell], counts: Sequence[Count | None]) -> bool:
    """Whether the cells have counts that are not among these."""
    return any(one not in counts for cell in cells for one in cell.counts)


def take_from(tally: Tally, count: Count, amount: int, key: str, state: State) -> Hold:
    """Take from a count. ``state``: its own, after the take."""
    count.state = state
    count.holders += 1
    return Hold(tally, count, key, amount, arithmetic.began_ms(count.rule, state))


def charge_of(tally: str, charges: Mapping[str, int]) -> int:
    """The charge of a bucket that the settlement does not name, because it was reserved under
    another configuration: that of another bucket of its tally."""
    return max((charge for key, charge in charges.items() if tally_of(key) == tally), default=0)


def let_go(holds: Sequence[Hold]) -> None:
    """Reservations with these holds are forgotten."""
    for hold in holds:
        hold.counted.holders -= 1


def take_from_others(
    tenant: Tenant,
    takes: Sequence[Take],
    counts: Sequence[Count | None],
    now_ms: int,
) -> Iterator[Hold]:
    """Take from the counts of other rules of the tallies, too."""
    present = [count for count in counts if count is not None]
    by_tally: dict[str, list[Take]] = {}
    for take in takes:
        by_tally.setdefault(take.bucket.tally, []).append(take)
    for tally, some in by_tally.items():
        cell = tenant.cells.get(tally)
        if cell is None:
            continue
        most = max(some, key=lambda take: take.amount)
        for other in cell.charged_with([take.bucket.rule for take in some], present):
            state = arithmetic.advance(other.rule, other.state, now_ms)
            state = arithmetic.take(other.rule, state, most.amount)
            yield take_from(cell, other, most.amount, most.bucket.key, state)
