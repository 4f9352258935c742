"""How much slower or faster single endpoints are than their pool."""

from __future__ import annotations

from math import exp, log
from typing import Final

import numpy as np

from policies.routing.types import Floats, Slots

_SHARED: Final = 10.0
"""Observations by which an endpoint must differ before half of the difference is believed."""
_KEPT: Final = 30.0
"""Observations of an endpoint that count, about the last ones."""
_FARTHEST: Final = 0.7
"""Of one observation from what is believed, as a logarithm: twice. What lies farther counts no
more."""
_ALIKE: Final = 0.1
_APART: Final = 0.3
"""Endpoints that differ by less, as a logarithm, are alike: so far apart are times of equal ones,
whose requests are not the same. By more they are believed to differ; between, in part."""
_SHORTEST_S: Final = 1e-4
_FADING: Final = 0.02
_SLOWEST: Final = log(50.0)


class Paces:
    """One factor an endpoint: its times by those of the pool; 1 where nothing is known.

    Means of logarithms that begin at those of the pool, as in a model with random effects, and
    forget: a slower engine is believed after some 30 answers. Wild values are cut.
    """

    def __init__(self) -> None:
        self._logs: list[float] = []
        self._counts: list[float] = []
        self._factors: Floats = np.ones(0)
        self.error = 0.1
        """How far observations are from what was expected, on average, as a logarithm: about the
        relative error."""

    def of(self, slot: int) -> float:
        """An endpoint's factor."""
        return self._factors.item(slot) if slot < len(self._logs) else 1.0

    def take(self, slots: Slots) -> Floats:
        """The factors of some endpoints, at least one."""
        last = slots.item(slots.argmax())
        if self._factors.size <= last:
            self._grow(last + 1)
        return self._factors.take(slots)

    def observe(self, slot: int, seconds: float, usual_s: float) -> None:
        """An endpoint took ``seconds`` for what takes ``usual_s`` in its pool."""
        if slot >= len(self._logs):
            self._grow(slot + 1)
        before, count = self._logs[slot], self._counts[slot]
        off = log(max(seconds, _SHORTEST_S) / max(usual_s, _SHORTEST_S)) - before
        self.error += _FADING * (min(abs(off), _FARTHEST) - self.error)
        if count < _KEPT:
            self._counts[slot] = count = count + 1.0
        moved = before + max(-_FARTHEST, min(_FARTHEST, off)) / (_SHARED + count)
        self._logs[slot] = max(-_SLOWEST, min(_SLOWEST, moved))
        self._factors[slot] = _believed(self._logs[slot])

    def center(self) -> None:
        """Let the endpoints that are known be 1 on average: what they have in common belongs to
        the pool."""
        known = [log_ for log_, count in zip(self._logs, self._counts, strict=True) if count]
        if not known:
            return
        mean = sum(known) / len(known)
        self._logs = [
            log_ - mean if count else 0.0
            for log_, count in zip(self._logs, self._counts, strict=True)
        ]
        self._factors = np.array([*map(_believed, self._logs)])

    def reset(self, slot: int) -> None:
        """Another endpoint: one like the pool."""
        if slot < len(self._logs):
            self._logs[slot] = self._counts[slot] = 0.0
            self._factors[slot] = 1.0

    def snapshot(self) -> dict[str, float]:
        """Factors by slot, of those known."""
        return {
            str(slot): exp(log_)
            for slot, (log_, count) in enumerate(zip(self._logs, self._counts, strict=True))
            if count
        }

    def restore(self, slot: str, pace: object) -> None:
        """Take over one of a `snapshot`, unless it is damaged."""
        if not slot.isdecimal() or len(slot) > 6 or isinstance(pace, bool):
            return
        if isinstance(pace, int | float) and 0.02 <= pace <= 50.0:
            at = int(slot)
            self._grow(at + 1)
            self._logs[at], self._counts[at] = log(pace), _SHARED
            self._factors[at] = _believed(self._logs[at])

    def _grow(self, size: int) -> None:
        more = size - len(self._logs)
        if more > 0:
            self._logs += [0.0] * more
            self._counts += [0.0] * more
            self._factors = np.concatenate([self._factors, np.ones(more)])


def _believed(log_: float) -> float:
    """The factor; 1 when it is near 1 (firm shrinkage, Gao and Bruce 1997)."""
    size = abs(log_)
    if size >= _APART:
        return exp(log_)
    if size <= _ALIKE:
        return 1.0
    kept = _APART * (size - _ALIKE) / (_APART - _ALIKE)
    return exp(kept if log_ > 0 else -kept)
