"""The children of labelled metrics. What happens to a request is added up in plain numbers, and
passed on to Prometheus a few times a second: its own counts go to a file each, and take a tenth of
what a whole decision does."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

Labels = tuple[str, ...]


class Counts:
    """The children of a counter by their label values."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._children: dict[Labels, Counter] = {}
        self._pending: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        """Count; an amount of 0 makes the series at least."""
        pending = self._pending
        pending[labels] = pending.get(labels, 0.0) + amount

    def flush(self) -> None:
        """Pass on what was added since the last time."""
        pending, self._pending = self._pending, {}
        for labels, amount in pending.items():
            child = self._children.get(labels)
            if child is None:
                child = self._children[labels] = self._counter.labels(*labels)
            child.inc(amount)


class BulkHistogram(Histogram):
    """A histogram that takes many observations at once."""

    @property
    def bounds(self) -> Sequence[float]:
        """Upper bounds of the buckets, the last one infinite."""
        return self._upper_bounds

    def add(self, counts: Sequence[int], total: float) -> None:
        """So many observations in each bucket, whose sum is ``total``."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


@dataclass(slots=True)
class _Observed:
    counts: list[int]
    """By bucket."""
    total: float = 0.0


class Distributions:
    """The children of a histogram by their label values."""

    def __init__(self, histogram: BulkHistogram) -> None:
        self._histogram = histogram
        self._bounds = histogram.bounds
        self._children: dict[Labels, BulkHistogram] = {}
        self._pending: dict[Labels, _Observed] = {}

    def observe(self, labels: Labels, value: float | None) -> None:
        """Note a value. None: there is none, but the series is made."""
        observed = self._pending.get(labels)
        if observed is None:
            observed = self._pending[labels] = _Observed([0] * len(self._bounds))
        if value is not None:
            observed.counts[bisect_left(self._bounds, value)] += 1
            observed.total += value

    def flush(self) -> None:
        """Pass on what was observed since the last time."""
        pending, self._pending = self._pending, {}
        for labels, observed in pending.items():
            child = self._children.get(labels)
            if child is None:
                child = self._children[labels] = self._histogram.labels(*labels)
            child.add(observed.counts, observed.total)
