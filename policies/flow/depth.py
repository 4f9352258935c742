"""How much waits somewhere."""

from __future__ import annotations

from dataclasses import dataclass

from policies.flow.item import Item


@dataclass(slots=True)
class Depth:
    """Of items that wait."""

    requests: int = 0
    tokens: float = 0.0
    cost: float = 0.0

    def more(self, item: Item) -> None:
        """An item comes."""
        self.requests += 1
        self.tokens += item.tokens
        self.cost += item.cost

    def less(self, item: Item) -> None:
        """An item leaves."""
        self.requests -= 1
        if self.requests:
            self.tokens -= item.tokens
            self.cost -= item.cost
        else:
            self.tokens = self.cost = 0.0  # no remainder of rounding
