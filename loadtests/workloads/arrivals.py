"""Open loop: sessions begin at given times, whether or not earlier ones have been answered."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A rate of arrivals for a while; a rate of 0 is a pause."""

    per_s: float
    duration_s: float

    def __post_init__(self) -> None:
        if self.per_s < 0 or self.duration_s <= 0:
            raise ValueError(
                f"a stage needs a rate from 0 and a duration over 0, got {self.per_s:g}/s for"
                f" {self.duration_s:g} s"
            )


def arrival_times(stages: Sequence[Stage], *, seed: int, cv: float = 1.0) -> Iterator[float]:
    """The times at which sessions begin, in seconds, rising, until the stages are over.

    Gaps are drawn from a gamma distribution with coefficient of variation ``cv``: 0 is an even
    beat, 1 a Poisson process, above 1 sessions come in bursts (BurstGPT, KDD'25, fits gamma gaps to
    real LLM traffic; its conversations are near cv 1, its API traffic above 2).
    """
    if cv < 0:
        raise ValueError(f"cv must be 0 or more, got {cv:g}")
    rng = random.Random(f"arrivals/{seed}")
    begin_s = 0.0
    for stage in stages:
        for since_s in _gaps_added_up(rng, stage.per_s, cv):
            if since_s >= stage.duration_s:
                break
            yield begin_s + since_s
        begin_s += stage.duration_s


def _gaps_added_up(rng: random.Random, per_s: float, cv: float) -> Iterator[float]:
    if per_s == 0:
        return
    if cv == 0:
        # Multiplied, not added up, so that rounding does not move the beat.
        yield from (number / per_s for number in itertools.count(1))
    since_s = 0.0
    while True:
        since_s += rng.expovariate(per_s) if cv == 1 else rng.gammavariate(cv**-2, cv**2 / per_s)
        yield since_s
