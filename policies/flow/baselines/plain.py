"""Plain orders: by arrival, by class alone, and in turns."""

from __future__ import annotations

from math import inf

from policies.flow.item import Item
from policies.flow.shares import Shares
from policies.registry import register


class _ByArrival:
    """Nobody has a share of his own, nor a deadline."""

    owed = 0.0

    def rank(self, item: Item) -> None:
        """See `Order`."""
        item.flow, item.user, item.due_s, item.weight = "", "", inf, 1.0

    def price(self, item: Item) -> float:
        """See `Order`."""
        return item.spent

    def counters(self) -> Shares:
        """See `Order`."""
        return Shares()


@register("order", "first-come")
class FirstCome(_ByArrival):
    """By arrival; nothing else counts."""

    def rank(self, item: Item) -> None:
        """See `Order`."""
        super().rank(item)
        item.priority = 0


@register("order", "strict-priority")
class StrictPriority(_ByArrival):
    """The higher class first, however long others wait; in a class by arrival."""


@register("order", "round-robin")
class RoundRobin(_ByArrival):
    """Tenants in turn, a request each; whatever it costs, and whatever its priority."""

    def rank(self, item: Item) -> None:
        """See `Order`."""
        flow = item.flow
        super().rank(item)
        item.flow, item.priority = flow, 0

    def price(self, item: Item) -> float:
        """See `Order`."""
        return 1.0
