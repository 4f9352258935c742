"""What one picker has to report of its queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from policies.flow.digest import ClassRow, FlowRow, part_of

_KEPT_S: Final = 60.0
"""A flow's sum that has not changed for so long is forgotten; a new one begins at 0."""

FlowKey = tuple[int, str]
"""Class and flow."""


def part_of_flow(flow: str, parts: int) -> int:
    """In which part a flow is reported."""
    return part_of(crc32(flow.encode()), parts)


@dataclass(slots=True)
class _Sum:
    since: int
    served: float = 0.0
    kept: bool = True
    """It has changed since the last time that sums were forgotten."""


@dataclass(slots=True)
class Waiting:
    """Of one flow, as a row has it."""

    weight: float = 1.0
    requests: int = 0
    tokens: float = 0.0
    cost: float = 0.0


class Reporting:
    """Sums of what was served, and which flows have changed since they were last reported."""

    def __init__(self, first: int = 0) -> None:
        """``first``: number of the first sum, above those of any reporting before it."""
        self.begun = 0
        """Requests sent to the pool."""
        self._sums: dict[FlowKey, _Sum] = {}
        self._changed: set[FlowKey] = set()
        self._given: dict[int, float] = {}
        self._came: dict[int, float] = {}
        self._classes: set[int] = set()
        """Those that have changed."""
        self._begun_reported = 0
        self._count = first
        self._swept_s = 0.0

    @property
    def changed(self) -> bool:
        """There is something to report."""
        return bool(self._changed or self._classes or self.begun != self._begun_reported)

    def waits(self, priority: int, flow: str) -> None:
        """What waits of a flow has changed."""
        self._changed.add((priority, flow))

    def came(self, priority: int, cost: float) -> None:
        """Something has begun to wait."""
        self._came[priority] = self._came.get(priority, 0.0) + cost
        self._classes.add(priority)

    def given(self, priority: int, cost: float) -> None:
        """Something was let go."""
        self._given[priority] = self._given.get(priority, 0.0) + cost
        self._classes.add(priority)

    def served(self, priority: int, flow: str, price: float) -> None:
        """A flow was charged, or is charged less."""
        key = (priority, flow)
        found = self._sums.get(key)
        if found is None:
            self._count += 1
            found = self._sums[key] = _Sum(self._count)
        found.served += price
        found.kept = True
        self._changed.add(key)

    def flows(self, keys: Iterable[tuple[FlowKey, Waiting]]) -> tuple[FlowRow, ...]:
        """Rows of these flows."""
        return tuple(self._row(key, waiting) for key, waiting in keys)

    def take_changed(self, most: int) -> list[FlowKey]:
        """Flows that have changed since this was last asked, up to so many."""
        if len(self._changed) <= most:
            changed, self._changed = [*self._changed], set()
        else:
            changed = [self._changed.pop() for _ in range(most)]
        self._begun_reported = self.begun
        return changed

    def all_of(self, part: int, parts: int, now_s: float) -> Iterator[FlowKey]:
        """Those of a part that have a sum."""
        self._sweep(now_s)
        for key in self._sums:
            if part_of_flow(key[1], parts) == part:
                yield key

    def __len__(self) -> int:
        return len(self._sums)

    def class_rows(self, *, everything: bool) -> tuple[ClassRow, ...]:
        """Of those that have changed since this was last asked, or of all."""
        which = {*self._given, *self._came} if everything else self._classes
        self._classes = set()
        return tuple(
            ClassRow(one, self._given.get(one, 0.0), self._came.get(one, 0.0)) for one in which
        )

    def _row(self, key: FlowKey, waiting: Waiting) -> FlowRow:
        found = self._sums.get(key)
        return FlowRow(
            priority=key[0],
            flow=key[1],
            weight=waiting.weight,
            requests=waiting.requests,
            tokens=waiting.tokens,
            cost=waiting.cost,
            served=0.0 if found is None else found.served,
            since=0 if found is None else found.since,
        )

    def _sweep(self, now_s: float) -> None:
        """Forget sums that have not changed for long: those of flows that come back begin anew."""
        if now_s < self._swept_s + _KEPT_S:
            return
        self._swept_s = now_s
        self._sums = {key: one for key, one in self._sums.items() if one.kept}
        for one in self._sums.values():
            one.kept = False
