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

    def add(self, requests: int, tokens: float, cost: float) -> None:
        """So much comes, or leaves."""
        self.requests += requests
        if self.requests:
            self.tokens += tokens
            self.cost += cost
        else:
            self.tokens = self.cost = 0.0  # no remainder of rounding

    def more(self, item: Item) -> None:
        """An item comes."""
        self.add(1, item.tokens, item.cost)

    def less(self, item: Item) -> None:
        """An item leaves."""
        self.add(-1, -item.tokens, -item.cost)
