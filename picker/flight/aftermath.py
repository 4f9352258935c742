"""After a picker has died: ends of its requests, and ends of ours that were reported to it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from msgspec.structs import replace

from picker.request.report import Report

GRACE_S: Final = 2.0
"""A picker that is alive settles its own requests; one that is not is known to be dead by then."""
SUSPECT_S: Final = 300.0
"""So long after a picker has died the end of a request that was under way then may still be
reported; nothing holds its limits for longer."""
_UNHEARD_S: Final = 0.25
"""So long before a picker is known to be dead an end that was reported elsewhere may not have
reached it, or its log: it is logged here. What came before that it has logged itself."""
_MAX_ORPHANS: Final = 100_000


class _Kept(NamedTuple):
    at_s: float
    report: Report
    heard: bool
    """Its owner was live then, and was told."""

    def orphan(self, since_s: float) -> Report:
        """Without labels, which is without a line in the log, if its owner was told before."""
        logged = self.heard and self.at_s < since_s
        return replace(self.report, labels=None) if logged else self.report


class Aftermath:
    """Reports whose owner may be dead, and requests whose report may be lost."""

    def __init__(self) -> None:
        self._live: AbstractSet[str] = frozenset()
        self._left: dict[str, float] = {}
        """Pickers that were live a moment ago, and since when they are not."""
        self._died_s = -math.inf
        """When a picker died last."""
        self._dead: dict[str, float] = {}
        """Pickers of which the two are known, and since when."""
        self._reports: deque[_Kept] = deque(maxlen=_MAX_ORPHANS)
        self._orphans: list[Report] = []
        self._suspects: deque[tuple[float, set[str]]] = deque()

    def report_of_another(self, report: Report, now_s: float) -> bool:
        """The end of another picker's request was reported here. Returns whether it is an orphan
        now; if not, `orphans` may return it later. One with labels is to be logged."""
        if report.owner in self._dead:
            return True
        self._reports.append(_Kept(now_s, report, report.owner in self._live))
        return False

    def pickers_live(self, live: AbstractSet[str], now_s: float) -> None:
        """Ids of all pickers that run; empty: unknown."""
        if live:
            left = {**self._left, **dict.fromkeys(self._live - live, now_s)}
            self._live, self._left = live, _younger(left, live, GRACE_S, now_s)
            self._dead = _younger(self._dead, live, SUSPECT_S, now_s)
            self._find_dead(now_s)

    def picker_died(self, under_way: AbstractSet[str], now_s: float) -> None:
        """A picker has died: ends that the data plane was reporting to it are lost. The set is
        unknown: it is part of ``under_way``, this picker's requests now."""
        self._suspects.append((now_s, set(under_way)))
        self._died_s = now_s
        self._left = _younger(self._left, self._live, GRACE_S, now_s)
        self._find_dead(now_s)

    def _find_dead(self, now_s: float) -> None:
        """One that is not live any more at about the time of a death has died."""
        if self._left and self._died_s + GRACE_S > now_s:
            dead, self._left = self._left, {}
            self._dead |= dead
            since_s = now_s - _UNHEARD_S
            self._orphans += [
                kept.orphan(since_s) for kept in self._reports if kept.report.owner in dead
            ]
            kept = (kept for kept in self._reports if kept.report.owner not in dead)
            self._reports = deque(kept, maxlen=_MAX_ORPHANS)

    def lives(self, id: str) -> None:  # noqa: A002 - the request's id
        """The data plane still serves it: no end of it can have been lost yet."""
        for _, suspects in self._suspects:
            suspects.discard(id)

    def orphans(self, now_s: float) -> Iterator[Report]:
        """Reports whose owner has turned out to be dead, each once.

        A picker that was seen to die settles nothing any more: its reports are orphans at once,
        while what it reserved is still held. Of any other that is not live it is less sure: it may
        just begin, be about to end, or be cut off for a moment. Its reports wait for `GRACE_S`,
        because a picker that finds its settlement done takes it for lost, and does it again.
        """
        orphans, self._orphans = self._orphans, []
        yield from orphans
        while self._reports and self._reports[0].at_s <= now_s - GRACE_S:
            kept = self._reports.popleft()
            if self._live and kept.report.owner not in self._live:
                yield kept.orphan(math.inf)

    def suspects(self, under_way: AbstractSet[str], now_s: float) -> Iterator[tuple[str, bool]]:
        """Requests whose report may be lost, and whether it is too late to wait for it. Ids that
        are not in ``under_way`` are forgotten."""
        for died_s, suspects in self._suspects:
            if died_s + GRACE_S > now_s:
                break
            suspects &= under_way
            late = died_s + SUSPECT_S <= now_s
            for suspect in suspects:
                yield suspect, late
        while self._suspects and self._suspects[0][0] + SUSPECT_S <= now_s:
            self._suspects.popleft()


def _younger(
    since_s: Mapping[str, float], live: AbstractSet[str], age_s: float, now_s: float
) -> dict[str, float]:
    """Without those that are live, and those of that age."""
    return {one: at_s for one, at_s in since_s.items() if one not in live and at_s + age_s > now_s}
