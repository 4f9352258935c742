"""Selectors: from scores to an order of endpoints. The configuration calls them pickers."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from policies.registry import register
from policies.routing.bounds import more_than
from policies.routing.types import Floats, Ranking, Slots


@register("picker", "max")
@dataclass(frozen=True, slots=True)
class MaxScore:
    """The best score first, then the next best; exact ties in random order."""

    def pick(self, candidates: Slots, scores: Floats, count: int, rng: random.Random) -> Ranking:
        left = scores.copy()
        chosen: list[int] = []
        for _ in range(min(count, candidates.size)):
            best = int(left.argmax())
            equal = left == left.item(best)
            ties = int(np.count_nonzero(equal))
            if ties > 1:
                best = equal.nonzero()[0].item(rng.randrange(ties))
            chosen.append(best)
            left[best] = -np.inf
        return Ranking(candidates.take(chosen), scores.take(chosen))


@register("picker", "weighted-random")
@dataclass(frozen=True, slots=True)
class WeightedRandom:
    """Drawn without replacement with probability proportional to score ** ``exponent``.

    Equal chances when all scores are 0.
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        more_than(0, exponent=self.exponent)

    def pick(self, candidates: Slots, scores: Floats, count: int, rng: random.Random) -> Ranking:
        # Relative to the best, so that a large exponent cannot underflow all weights to 0.
        best = scores.max(initial=0.0)
        weights = (scores / best) ** self.exponent if best > 0 else np.ones(scores.size)
        chosen: list[int] = []
        for _ in range(min(count, candidates.size)):
            index = self._draw(weights, chosen, rng)
            chosen.append(index)
            weights[index] = 0.0
        return Ranking(candidates.take(chosen), scores.take(chosen))

    @staticmethod
    def _draw(weights: Floats, chosen: list[int], rng: random.Random) -> int:
        cumulative = weights.cumsum()
        total = cumulative[-1]
        if total <= 0:  # only zeros are left: any of them
            rest = np.setdiff1d(np.arange(weights.size), chosen)
            return int(rest[rng.randrange(rest.size)])
        index = int(cumulative.searchsorted(rng.random() * total, side="right"))
        # Rounding can carry the draw to the very end, where weights may be 0.
        return index if index < weights.size and weights[index] > 0 else int(weights.argmax())
