"""Virtual time: what is to happen, and when."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf


class Agenda:
    """It skips from event to event; events of one time happen in the order in which they were
    planned."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0

    @property
    def next_s(self) -> float:
        """Time of the next event; infinite: there is none."""
        return self._heap[0][0] if self._heap else inf

    def at(self, at_s: float, act: Callable[[], None]) -> None:
        """Let something happen at a time."""
        self._planned += 1
        heapq.heappush(self._heap, (at_s, self._planned, act))

    def step(self) -> None:
        """Let the next event happen. Raises IndexError when there is none."""
        at_s, _, act = heapq.heappop(self._heap)
        self.now_s = max(self.now_s, at_s)
        act()
