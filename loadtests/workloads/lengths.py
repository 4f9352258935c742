"""Distributions of lengths and pauses, in the terms of inference-perf's workload catalogue."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

Shape = Literal["fixed", "uniform", "normal", "lognormal", "exponential"]


@dataclass(frozen=True, slots=True)
class Length:
    """A distribution of token counts, or of seconds, clipped to [``least``, ``most``].

    ``mean`` and ``deviation`` describe the distribution before it is clipped. Those of a lognormal
    are its own, not those of the normal distribution of its logarithm: as inference-perf's
    ``Distribution``.
    """

    shape: Shape
    mean: float
    deviation: float
    least: float
    most: float

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ValueError(f"least {self.least:g} is more than most {self.most:g}")
        if self.shape in ("lognormal", "exponential") and self.mean <= 0:
            raise ValueError(f"a {self.shape} length needs a mean over 0, got {self.mean:g}")

    @classmethod
    def fixed(cls, value: float) -> Length:
        return cls("fixed", value, 0.0, value, value)

    @classmethod
    def uniform(cls, least: float, most: float) -> Length:
        deviation = (most - least) / math.sqrt(12.0)
        return cls("uniform", (least + most) / 2.0, deviation, least, most)

    @classmethod
    def normal(cls, mean: float, deviation: float, least: float, most: float) -> Length:
        return cls("normal", mean, deviation, least, most)

    @classmethod
    def lognormal(cls, mean: float, deviation: float, least: float, most: float) -> Length:
        return cls("lognormal", mean, deviation, least, most)

    @classmethod
    def exponential(cls, mean: float, least: float, most: float) -> Length:
        return cls("exponential", mean, mean, least, most)

    def draw(self, rng: random.Random) -> float:
        """Draw one value, within the bounds."""
        return min(self.most, max(self.least, self._unbounded(rng)))

    def tokens(self, rng: random.Random) -> int:
        """Draw one value, as a whole number."""
        return round(self.draw(rng))

    def _unbounded(self, rng: random.Random) -> float:
        if self.shape == "fixed":
            return self.mean
        if self.shape == "uniform":
            return rng.uniform(self.least, self.most)
        if self.shape == "exponential":
            return rng.expovariate(1.0 / self.mean)
        if self.shape == "normal":
            return rng.normalvariate(self.mean, self.deviation)
        variance = math.log1p((self.deviation / self.mean) ** 2)
        return rng.lognormvariate(math.log(self.mean) - variance / 2.0, math.sqrt(variance))
