"""Arithmetic of measurements: percentiles, means with their uncertainty, costs per unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

# Student's t, two-sided 95 %, by degrees of freedom; above 30 that of 30 is used, slightly too
# wide.
_T95 = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
    2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the half width of its 95 % confidence interval; None from a single sample."""

    value: float
    error: float | None

    @property
    def includes_zero(self) -> bool:
        """Whether zero lies in the interval."""
        return self.error is not None and abs(self.value) <= self.error

    def below(self, limit: float) -> bool | None:
        """Whether the mean is below a limit; None: the error is too large to know."""
        error = float("inf") if self.error is None else self.error
        if self.value + error < limit:
            return True
        return False if self.value - error > limit else None


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 99th percentile."""

    p50: float
    p99: float


def estimate(samples: Sequence[float]) -> Estimate:
    """The mean of independent samples. Raises ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    if len(samples) == 1:
        return Estimate(samples[0], None)
    freedom = len(samples) - 1
    t = _T95[min(freedom, len(_T95)) - 1]
    return Estimate(mean(samples), t * stdev(samples) / sqrt(len(samples)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """A percentile of ascending values; ``share`` is 0 to 1, values are interpolated linearly.
    Raises ValueError without values."""
    if not ordered:
        raise ValueError("no samples")
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(samples: Sequence[float]) -> Spread:
    """The spread of values in any order. Raises ValueError without values."""
    ordered = sorted(samples)
    return Spread(percentile(ordered, 0.5), percentile(ordered, 0.99))


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took and how many units it had."""

    cpu_s: float
    units: float


def slope(pairs: Sequence[tuple[Cost, Cost]]) -> Estimate:
    """CPU seconds of one more unit, from (few units, many units) pairs that are alike otherwise.

    The pairs are independent samples. Raises ValueError when a pair does not differ in units.
    """
    return estimate([_pair_slope(few, many) for few, many in pairs])


def _pair_slope(few: Cost, many: Cost) -> float:
    if many.units <= few.units:
        raise ValueError(f"{many.units:g} units are not more than {few.units:g}")
    return (many.cpu_s - few.cpu_s) / (many.units - few.units)
