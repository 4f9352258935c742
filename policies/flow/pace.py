"""How fast a queue is worked off, and so how long one more would wait."""

from __future__ import annotations

from math import exp, inf
from typing import Final

_MEMORY_S: Final = 10.0
_COMES_S: Final = 30.0
"""Time over which what comes is averaged: a burst that waits by now is not what will come."""
LONGEST_S: Final = 3600.0
"""A pool that has given nothing for long says no more than that."""
_LEAST_SHARE: Final = 0.05
"""Of the whole pace, that a class is believed to get however much comes above it."""


class _Rate:
    """Cost a second, exponentially faded. ``began_s``: nothing is known of the time before."""

    def __init__(self, memory_s: float, began_s: float = -inf) -> None:
        self._memory_s = memory_s
        self._sum = 0.0
        self._at_s = self._began_s = began_s

    def add(self, cost: float, now_s: float) -> None:
        self._sum = self._sum * self._left(now_s) + cost
        self._at_s = max(self._at_s, now_s)

    def per_s(self, now_s: float) -> float:
        known = 1.0 - exp(-max(now_s - self._began_s, 0.1) / self._memory_s)
        seen_s = self._memory_s * known
        return self._sum * self._left(now_s) / seen_s

    def _left(self, now_s: float) -> float:
        return exp(-max(0.0, now_s - self._at_s) / self._memory_s)


class Pace:
    """What is given to a pool, and what comes for it by class; costs as `Item.cost`."""

    def __init__(self, now_s: float) -> None:
        """``now_s``: somebody begins to wait."""
        self._began_s = now_s
        self._given = _Rate(_MEMORY_S, now_s)
        self._came: dict[int, _Rate] = {}

    def came(self, priority: int, cost: float, now_s: float) -> None:
        """An item of a class has come."""
        rate = self._came.get(priority)
        if rate is None:
            rate = self._came[priority] = _Rate(_COMES_S)
        rate.add(cost, now_s)

    def given(self, cost: float, now_s: float) -> None:
        """An item was given to the pool."""
        self._given.add(cost, now_s)

    def wait_s(self, ahead_cost: float, priority: int, now_s: float, *, able_per_s: float) -> float:
        """Predicted wait of an item of a class that has so much before it: at the pace since
        somebody waits, less what comes above it meanwhile. ``able_per_s``: what the pool should be
        able to, for as long as there is little to go by. At most an hour."""
        if ahead_cost <= 0:
            return 0.0
        unknown = exp(-max(0.0, now_s - self._began_s) / _MEMORY_S)
        whole = unknown * able_per_s + (1.0 - unknown) * self._given.per_s(now_s)
        above = sum(rate.per_s(now_s) for one, rate in self._came.items() if one > priority)
        pace = max(whole - above, _LEAST_SHARE * whole)
        return min(LONGEST_S, ahead_cost / pace) if pace > 0 else LONGEST_S
