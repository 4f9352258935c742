"""Sums of terms through what was seen: how times depend on what an engine has to do."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final

import numpy as np

from policies.routing.types import Floats

_KEPT: Final = 256
"""Observations that count: the last ones."""
_EVERY: Final = 16
_SELDOM: Final = 64
"""Coefficients are fitted again after so many observations, and seldom when as many were seen as
count; the first ones count at once."""
_AT_ONCE: Final = frozenset((1, 2, 4, 8))
_ROUNDS: Final = 4
_MORE_ROUNDS: Final = 2
"""When the last fit was through most of the same observations."""
_NOISE_S: Final = 1e-4
_NOISE: Final = 0.02
"""Deviations under this share of a value are noise, and weigh as if they were as large."""


class QuantileFit:
    """Seconds = sum of coefficient x term, no coefficient under 0, so that a share ``quantile`` of
    what was seen lies below.

    Deviations count by their share of the value, of half the mean for short times, and not by their
    square, so that single wild values and long times do not decide all: quantile regression
    (Koenker and Bassett 1978), solved by reweighted least squares. The rows of ``prior`` (terms,
    then seconds) count beside the last 256 observations and never fade: they decide what
    observations leave open.
    """

    def __init__(self, prior: Sequence[Sequence[float]], *, quantile: float) -> None:
        self._quantile = quantile
        self._prior = np.array(prior, np.float64)
        self._first, terms = len(prior), len(prior[0]) - 1
        self._rows = np.zeros((self._first + _KEPT, terms))
        self._seconds = np.zeros(self._first + _KEPT)
        self._rows[: self._first] = self._prior[:, :-1]
        self._seconds[: self._first] = self._prior[:, -1]
        self.seen = 0
        """Observations so far."""
        self.coefficients = (0.0,) * terms
        self._fit()

    def observe(self, terms: Sequence[float], seconds: float) -> bool:
        """Learn from one observation; whether the coefficients were fitted again. That is so at
        each 64th, and takes 200 us; at first more often, and takes 400."""
        place = self._first + self.seen % _KEPT
        self._rows[place], self._seconds[place] = terms, seconds
        self.seen += 1
        every = _EVERY if self.seen <= _KEPT else _SELDOM
        if self.seen % every == 0 or self.seen in _AT_ONCE:
            self._fit()
            return True
        return False

    def begin_with(self, coefficients: Sequence[float]) -> None:
        """Expect these instead of what the prior says, until more is seen."""
        if len(coefficients) == len(self.coefficients) and all(
            isfinite(one) and 0.0 <= one < 1e6 for one in coefficients
        ):
            self.coefficients = tuple(coefficients)
            self._seconds[: self._first] = self._rows[: self._first] @ np.array(coefficients)

    def _fit(self) -> None:
        end = self._first + min(self.seen, _KEPT)
        rows, seconds = self._rows[:end], self._seconds[:end]
        scale = np.maximum(rows.max(axis=0), 1e-12)
        rows = rows / scale
        share = 1.0 / (seconds + 0.5 * seconds.mean() + _NOISE_S)
        least = _NOISE_S + _NOISE * seconds
        found = np.array(self.coefficients) * scale
        for _ in range(_ROUNDS if self.seen <= _KEPT else _MORE_ROUNDS):
            off = seconds - rows @ found
            weights = np.where(off > 0, self._quantile, 1 - self._quantile)
            weights = weights * share / np.maximum(np.abs(off), least)
            weighted = rows * weights[:, None]
            found = _not_negative(weighted.T @ rows, weighted.T @ seconds)
        self.coefficients = tuple((found / scale).tolist())


def _not_negative(products: Floats, target: Floats) -> Floats:
    """Least squares by its normal equations with no coefficient under 0: those that would be are
    left out one by one, the lowest first."""
    used = np.arange(target.size)
    products = products + np.diag(products.diagonal() * 1e-6 + 1e-12)
    found = np.zeros(target.size)
    while used.size:
        solved = np.linalg.solve(products[np.ix_(used, used)], target[used])
        if solved.min() >= 0.0:
            found[used] = solved
            break
        used = np.delete(used, solved.argmin())
    return found
