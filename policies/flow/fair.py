"""The order that Penstock serves in: classes, and in each of them shares by true cost."""

from __future__ import annotations

from policies.flow.item import Item
from policies.flow.shares import Shares
from policies.registry import register


@register("order", "fair")
class Fair:
    """Classes with aging; in a class flows, then users, by what they have cost the pool."""

    owed = 0.05
    """Little, since the higher class is to be served as if the lower were not there."""

    def rank(self, item: Item) -> None:
        """See `Order`: everything counts as it was asked for."""

    def price(self, item: Item) -> float:
        """See `Order`."""
        return item.spent / item.weight

    def counters(self) -> Shares:
        """See `Order`."""
        return Shares()
