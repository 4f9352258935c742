"""A Prometheus counter that follows a number somebody else counts."""

from __future__ import annotations

from prometheus_client import Counter


class GrowingCount:
    """Follows numbers that only grow, one for each set of label values. A number smaller than
    before is that of a new source, which began at 0."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._followed: dict[tuple[str, ...], float] = {}

    def follow(self, so_far: float, *labels: str) -> None:
        """Add what has come since the last call."""
        before = self._followed.get(labels, 0.0)
        child = self._counter.labels(*labels) if labels else self._counter
        child.inc(so_far - before if so_far >= before else so_far)
        self._followed[labels] = so_far
