"""Lines through what was seen of requests: how long prefills and decode steps take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from policies.routing.types import Floats

_KEPT: Final = 256
"""Observations that count: the last ones."""
_EVERY: Final = 16
"""A line is fitted again after so many observations; the first ones count at once."""
_AT_ONCE: Final = frozenset((1, 2, 4, 8))
_ROUNDS: Final = 6
_NOISE_S: Final = 1e-4
_NOISE: Final = 0.02
"""Deviations under this share of a value are noise, and weigh as if they were as large."""


class QuantileLine:
    """Seconds = intercept + slope x, both at least 0, so that a share ``quantile`` of what was seen
    lies below the line.

    Deviations count by their size, not by their square, so that single wild values change little:
    quantile regression (Koenker and Bassett 1978), solved by reweighted least squares. ``prior``
    are points (x, seconds) that count beside the last 256 observations and never fade.
    """

    def __init__(self, prior: Sequence[tuple[float, float]], *, quantile: float) -> None:
        self._quantile = quantile
        self._first = len(prior)
        self._seen = 0
        self._x = np.array([x for x, _ in prior] + [0.0] * _KEPT)
        self._y = np.array([y for _, y in prior] + [0.0] * _KEPT)
        self.intercept = self.slope = 0.0
        self._fit()

    def observe(self, x: float, seconds: float) -> None:
        """Learn from one point. Each 16th takes 150 us, because the line is fitted again."""
        place = self._first + self._seen % _KEPT
        self._x[place], self._y[place] = x, seconds
        self._seen += 1
        if self._seen % _EVERY == 0 or self._seen in _AT_ONCE:
            self._fit()

    def _fit(self) -> None:
        end = self._first + min(self._seen, _KEPT)
        x, y = self._x[:end], self._y[:end]
        weights: Floats = np.ones(end)
        for _ in range(_ROUNDS):
            n, sum_x, sum_y = float(weights.sum()), float(weights @ x), float(weights @ y)
            sum_xx, sum_xy = float(weights @ (x * x)), float(weights @ (x * y))
            spread = n * sum_xx - sum_x * sum_x
            slope = (n * sum_xy - sum_x * sum_y) / spread if spread > 1e-12 * n * sum_xx else 0.0
            self.slope = max(slope, 0.0)
            self.intercept = max((sum_y - self.slope * sum_x) / n, 0.0)
            off = y - self.intercept - self.slope * x
            sides = np.where(off > 0, self._quantile, 1 - self._quantile)
            weights = sides / np.maximum(np.abs(off), _NOISE_S + _NOISE * y)
