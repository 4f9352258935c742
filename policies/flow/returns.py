"""Who was sent away and is to come back: so that all who were refused together do not come back
together."""

from __future__ import annotations

import heapq


class Returns:
    """Work that was told when to come back, by class; costs as `Item.cost`."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, float]] = []
        """When, class, cost; the earliest first."""
        self._costs: dict[int, float] = {}

    def add(self, due_s: float, priority: int, cost: float) -> None:
        """Somebody comes back then."""
        heapq.heappush(self._due, (due_s, priority, cost))
        self._costs[priority] = self._costs.get(priority, 0.0) + cost

    def before(self, priority: int, now_s: float) -> float:
        """Cost of what has not come back yet and is served before one of a class that is sent away
        now: of its own class and of higher ones."""
        while self._due and self._due[0][0] <= now_s:
            _, one, cost = heapq.heappop(self._due)
            self._costs[one] -= cost
        if not self._due:
            self._costs.clear()  # no remainder of rounding
        return sum(cost for one, cost in self._costs.items() if one >= priority)
