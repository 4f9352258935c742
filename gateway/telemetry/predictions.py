"""How far predicted times were off: for metrics, and the median of late for people."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from picker.seams.observer import Completed

RATIO_BUCKETS: Final = (
    0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0,
)  # fmt: skip
"""Of |predicted - seen| / seen."""
LEAST_TTFT_S: Final = 0.05
"""What is faster than that is no more than the noise of processes that wake up."""
LEAST_TOKENS: Final = 5
"""Of fewer tokens the time per token says little."""
_MOST_COUNTED: Final = 1_000.0


class Off(NamedTuple):
    """A prediction and what was seen, seconds."""

    predicted_s: float
    seen_s: float

    @property
    def seconds(self) -> float:
        """How far it was off."""
        return abs(self.predicted_s - self.seen_s)

    @property
    def ratio(self) -> float:
        """The same as a share of what was seen."""
        return self.seconds / self.seen_s


def ttft_off(event: Completed, predicted_s: float | None) -> Off | None:
    """Of the time to the first token; None: nothing was predicted, or it came at once."""
    if predicted_s is None or event.ttft_s is None or event.ttft_s <= LEAST_TTFT_S:
        return None
    return Off(predicted_s, event.ttft_s)


def tpot_off(event: Completed, predicted_s: float | None) -> Off | None:
    """Of the time per token; None: nothing was predicted, or there are few tokens."""
    tpot_s = event.tpot_s
    if predicted_s is None or event.output_tokens < LEAST_TOKENS or not tpot_s:
        return None
    return Off(predicted_s, tpot_s)


class Recent:
    """Errors of late by bucket: the more have come since, the less one counts."""

    def __init__(self) -> None:
        self.counts = [0.0] * (len(RATIO_BUCKETS) + 1)
        self._total = 0.0

    def add(self, ratio: float) -> None:
        """One more."""
        self.counts[bisect_left(RATIO_BUCKETS, ratio)] += 1.0
        self._total += 1.0
        if self._total >= _MOST_COUNTED:
            self.counts = [count / 2 for count in self.counts]
            self._total /= 2


class PredictionErrors:
    """Of late, by pool and model."""

    def __init__(self) -> None:
        self._recent: dict[tuple[str, str], tuple[Recent, Recent]] = {}
        self._changed: set[tuple[str, str]] = set()

    def add(self, pool: str, model: str, ttft: Off | None, tpot: Off | None) -> None:
        """A request has ended."""
        if ttft is None and tpot is None:
            return
        key = (pool, model)
        if key not in self._recent:
            self._recent[key] = (Recent(), Recent())
        for recent, off in zip(self._recent[key], (ttft, tpot), strict=True):
            if off is not None:
                recent.add(off.ratio)
        self._changed.add(key)

    def news(
        self, *, everything: bool = False
    ) -> Iterator[tuple[str, str, Sequence[float], Sequence[float]]]:
        """Pool, model, and counts of TTFT and TPOT by bucket: those that have changed since this
        was last asked for, or all."""
        changed, self._changed = self._changed, set()
        for key in self._recent if everything else changed:
            ttft, tpot = self._recent[key]
            yield (*key, ttft.counts, tpot.counts)


def median(counts: Sequence[float]) -> float | None:
    """Of errors by bucket, as Prometheus' histogram_quantile takes it; None: there are none."""
    total = sum(counts)
    if len(counts) != len(RATIO_BUCKETS) + 1 or total <= 0:
        return None
    rank, below = total / 2, 0.0
    for at, upper in enumerate(RATIO_BUCKETS):
        if below + counts[at] >= rank:
            lower = RATIO_BUCKETS[at - 1] if at else 0.0
            return lower + (upper - lower) * (rank - below) / counts[at]
        below += counts[at]
    return RATIO_BUCKETS[-1]
