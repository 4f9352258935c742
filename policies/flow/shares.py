"""Start-time fair queueing (Goyal, Vin and Cheng, 1996) of work whose size is known late.

A child that has something waiting carries a start tag, and the child with the least should go next.
What it is given moves its tag on by cost / weight. A child that comes (back) starts at the virtual
time, which is the least tag of those that wait: nobody saves up a share that he did not ask for. Of
two children that wait all the time for the same server, the work given by weight differs by no more
than the largest item of each; `correct` keeps that true when an item turns out to be larger or
smaller than expected.
"""

from __future__ import annotations

import heapq
from typing import Final

_SWEEP_AT: Final = 1024


class Shares:
    """The tags of children, by name. Tags only grow: what a child is owed is set off against what
    it is given next."""

    def __init__(self) -> None:
        self._virtual = 0.0
        self._tags: dict[str, float] = {}
        """Of those that have something waiting, and of those that are ahead of the virtual time."""
        self._owed: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        """How much each has waiting."""
        self._heap: list[tuple[float, str]] = []
        """Tags of those that wait; old ones among them."""
        self._sweep_at = _SWEEP_AT

    def __len__(self) -> int:
        """Children that have something waiting."""
        return len(self._waiting)

    def __contains__(self, child: str) -> bool:
        return child in self._waiting

    def tag(self, child: str) -> float:
        """The child with the least goes next."""
        return max(self._virtual, self._tags.get(child, 0.0))

    def join(self, child: str) -> None:
        """The child has one thing more waiting."""
        count = self._waiting.get(child, 0)
        self._waiting[child] = count + 1
        if not count:
            self._set(child, self.tag(child))

    def leave(self, child: str) -> None:
        """The child has one thing less waiting."""
        if self._waiting[child] > 1:
            self._waiting[child] -= 1
        else:
            del self._waiting[child]

    def charge(self, child: str, amount: float) -> None:
        """The child is given work: ``amount`` is its cost by weight."""
        tag = self.tag(child)
        owed = self._owed.pop(child, 0.0)
        if owed > amount:
            self._owed[child] = owed - amount
        least = self._least()
        self._virtual = max(self._virtual, tag if least is None else min(tag, least))
        self._set(child, tag + max(0.0, amount - owed))

    def correct(self, child: str, amount: float) -> None:
        """What the child was given cost so much more, or less, than it was charged."""
        if amount >= 0:
            self._set(child, self.tag(child) + amount)
        elif child in self._waiting or self._tags.get(child, 0.0) > self._virtual:
            self._owed[child] = self._owed.get(child, 0.0) - amount

    def gap(self) -> float:
        """Between the most and the least served of those that have something waiting."""
        tags = [self.tag(child) for child in self._waiting]
        return max(tags) - min(tags) if tags else 0.0

    def ahead(self, child: str) -> float:
        """How far the child is beyond its share, at least 0: cost by weight."""
        return max(0.0, self._tags.get(child, 0.0) - self._virtual)

    def _set(self, child: str, tag: float) -> None:
        self._tags[child] = tag
        if child in self._waiting:
            heapq.heappush(self._heap, (tag, child))
            if len(self._heap) > _SWEEP_AT + 4 * len(self._waiting):
                self._heap = [(self._tags[one], one) for one in self._waiting]
                heapq.heapify(self._heap)
        if len(self._tags) > self._sweep_at:
            self._sweep()

    def _least(self) -> float | None:
        heap, tags, waiting = self._heap, self._tags, self._waiting
        while heap:
            tag, child = heap[0]
            if child in waiting and tags[child] == tag:
                return tag
            heapq.heappop(heap)
        return None

    def _sweep(self) -> None:
        """Forget the children that would start at the virtual time anyway."""
        virtual, waiting = self._virtual, self._waiting
        self._tags = {
            child: tag for child, tag in self._tags.items() if tag > virtual or child in waiting
        }
        self._owed = {child: owed for child, owed in self._owed.items() if child in self._tags}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._tags))
