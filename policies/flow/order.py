"""What a queue asks of an order: in which class and flow an item counts, and what it is charged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from policies.flow.item import Item


class Counters(Protocol):
    """What each child was served, as a tag. The child with the least tag goes next, of those that
    have something waiting."""

    def __len__(self) -> int:
        """Children that have something waiting."""
        ...

    def __contains__(self, child: str) -> bool:
        """The child has something waiting."""
        ...

    def tag(self, child: str) -> float:
        """Service by weight."""
        ...

    def next(self) -> str | None:
        """The child that goes next; None: nothing waits."""
        ...

    def join(self, child: str) -> None:
        """The child has one thing more waiting."""
        ...

    def leave(self, child: str) -> None:
        """The child has one thing less waiting."""
        ...

    def charge(self, child: str, amount: float) -> None:
        """The child is given work."""
        ...

    def correct(self, child: str, amount: float) -> None:
        """What the child was given cost so much more, or less, than it was charged."""
        ...

    def least(self) -> float:
        """Tag of the one that goes next; where nothing waits, of one that comes."""
        ...

    def gap(self) -> float:
        """Between the most and the least served of those that have something waiting."""
        ...

    def ahead(self, child: str) -> float:
        """How far the child is beyond its share, at least 0."""
        ...

    @property
    def lowerings(self) -> int:
        """How often a tag has become less."""
        ...

    def lowered(self, since: int) -> Iterator[str] | None:
        """Children whose tag has become less since there were so many `lowerings`; None: too many
        to know."""
        ...


@runtime_checkable
class Order(Protocol):
    """How a queue decides who goes next: the highest class first, in it the flow and then the user
    with the least tag, then the earliest deadline that can be met, then by arrival."""

    owed: float
    """Share of what is served above a class that has waited for long, which it gets in spite of
    that."""

    def rank(self, item: Item) -> None:
        """Set what the item counts as, before it is offered: its priority, flow, user, weight and
        deadline are what its request asks for."""
        ...

    def price(self, item: Item) -> float:
        """What its flow is charged for the item, by weight. Asked when the item is given out, and
        again when it is known what it has cost."""
        ...

    def counters(self) -> Counters:
        """Of the flows of a class, or of the users of a flow."""
        ...
