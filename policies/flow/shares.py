"""Start-time fair queueing (Goyal, Vin and Cheng, 1996) of work whose size is known late.

A child that has something waiting carries a start tag, and the child with the least should go next.
What it is given moves its tag on by cost / weight. A child that comes (back) starts at the virtual
time, which is the tag that was served last: nobody saves up a share that he did not ask for. Of
two children that wait all the time for the same server, the work given by weight differs by no more
than the largest item of each.

What an item has cost is known when it has ended. Then the tag is put where it would be if the item
had been charged that much at once; also when this is less, and others were served by a tag that was
too high meanwhile: they have had more than their share, and it is set off now.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

_SWEEP_AT: Final = 1024


class Shares:
    """The tags of children, by name."""

    def __init__(self) -> None:
        self._virtual = 0.0
        """Tag of the child that was served last, before it was charged for that; or the least tag
        of those that waited, if that was less."""
        self._tags: dict[str, float] = {}
        """Of those that have something waiting, and of those that had."""
        self._lifted: dict[str, float] = {}
        """Virtual time that children of these started at: what they were given before is forgotten,
        and so is what it has cost."""
        self._waiting: dict[str, int] = {}
        """How much each has waiting."""
        self._heap: list[tuple[float, str]] = []
        """Tags of those that wait; old ones among them."""
        self._sweep_at = _SWEEP_AT
        self._lowered: dict[str, int] = {}
        """Children whose tag became less, with a number that grows; the last one comes last."""
        self._lowerings = 0
        self._forgotten = 0
        """Number of the last that is not in ``_lowered`` any more."""

    def __len__(self) -> int:
        """Children that have something waiting."""
        return len(self._waiting)

    def __contains__(self, child: str) -> bool:
        return child in self._waiting

    def tag(self, child: str) -> float:
        """The child with the least goes next."""
        if child in self._waiting:
            return self._tags[child]
        return max(self._now(), self._tags.get(child, 0.0))

    def next(self) -> str | None:
        """The child with the least tag of those that have something waiting."""
        return None if self._least() is None else self._heap[0][1]

    def join(self, child: str) -> None:
        """The child has one thing more waiting."""
        count = self._waiting.get(child, 0)
        if not count:
            now, tag = self._now(), self._tags.get(child, 0.0)
            if tag <= now:
                self._lifted[child] = tag = now
            self._waiting[child] = 1
            self._set(child, tag)
        else:
            self._waiting[child] = count + 1

    def leave(self, child: str) -> None:
        """The child has one thing less waiting."""
        if self._waiting[child] > 1:
            self._waiting[child] -= 1
        else:
            del self._waiting[child]

    def charge(self, child: str, amount: float) -> None:
        """The child is given work: ``amount`` is its cost by weight."""
        tag = self.tag(child)
        least = self._least()
        self._virtual = tag if least is None else min(tag, least)
        self._set(child, tag + amount)

    def correct(self, child: str, amount: float) -> None:
        """What the child was given cost so much more, or less, than it was charged."""
        tag = self._tags.get(child)
        if tag is None:  # forgotten: no more than the virtual time
            tag = self._virtual
        new = max(tag + amount, self._lifted.get(child, 0.0))
        if new < tag:
            self._lowerings += 1
            self._lowered.pop(child, None)
            self._lowered[child] = self._lowerings
        self._set(child, new)

    def least(self) -> float:
        """Tag of the one that goes next; where nothing waits, of one that comes."""
        least = self._least()
        return self._virtual if least is None else least

    def gap(self) -> float:
        """Between the most and the least served of those that have something waiting."""
        tags = [self._tags[child] for child in self._waiting]
        return max(tags) - min(tags) if tags else 0.0

    def ahead(self, child: str) -> float:
        """How far the child is beyond its share, at least 0: cost by weight."""
        return max(0.0, self._tags.get(child, 0.0) - self._now())

    @property
    def lowerings(self) -> int:
        """How often a tag has become less."""
        return self._lowerings

    def lowered(self, since: int) -> Iterator[str] | None:
        """Children whose tag has become less since there were so many `lowerings`; None: too many
        to know."""
        return self._lowered_since(since) if since >= self._forgotten else None

    def _lowered_since(self, since: int) -> Iterator[str]:
        for child, number in reversed(self._lowered.items()):
            if number <= since:
                return
            yield child

    def _now(self) -> float:
        """Virtual time."""
        least = self._least()
        return self._virtual if least is None else min(self._virtual, least)

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
        now, waiting = self._now(), self._waiting
        self._tags = {
            child: tag for child, tag in self._tags.items() if tag > now or child in waiting
        }
        self._lifted = {child: tag for child, tag in self._lifted.items() if child in self._tags}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._tags))
        self._lowered, self._forgotten = {}, self._lowerings
