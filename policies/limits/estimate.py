"""Estimates the output tokens of a request: a quantile that is learned by tenant and model."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import accumulate

BINS_PER_DOUBLING = 8
"""Adjacent bins differ by 9 %: an estimate is at most that much above the true quantile."""
MAX_OUTPUT_TOKENS = 1 << 20
"""The largest number of tokens that bins tell apart."""
_BINS = 20 * BINS_PER_DOUBLING + 1
_RESCALE_AT = 1e100


@dataclass(slots=True)
class _Histogram:
    weights: list[float] = field(default_factory=lambda: [0.0] * _BINS)
    next_weight: float = 1.0
    """It grows, which is cheaper than to shrink every older weight."""
    observations: int = 0

    def add(self, tokens: int, decay: float) -> None:
        self.weights[_bin(tokens)] += self.next_weight
        self.next_weight /= decay
        self.observations += 1
        if self.next_weight > _RESCALE_AT:
            self.weights = [weight / self.next_weight for weight in self.weights]
            self.next_weight = 1.0

    def quantile_tokens(self, share: float) -> int:
        sums = list(accumulate(self.weights))
        wanted = share * sums[-1]
        return _upper_edge_tokens(next(i for i, total in enumerate(sums) if total >= wanted))


class OutputQuantile:
    """Quantile of output tokens over the recent requests of a tenant for a model.

    Each tenant and model has a histogram of logarithmic bins, in which an observation weighs
    ``decay`` times the one after it. A histogram with fewer than ``enough`` observations does not
    count: instead the model's over all tenants does, and without one ``prior_tokens``. There are at
    most ``max_keys`` histograms of 1.3 kB; the least recently used is forgotten.
    """

    def __init__(
        self,
        *,
        share: float = 0.95,
        min_tokens: int = 16,
        max_tokens: int = 16_384,
        prior_tokens: int = 1_024,
        decay: float = 0.995,
        enough: int = 20,
        max_keys: int = 4_096,
    ) -> None:
        """``share``: of requests, above 0 and at most 1, whose output stays below the estimate.
        Raises ValueError for what is out of range."""
        if not 0.5 <= decay < 1.0:
            raise ValueError(f"decay must be from 0.5 to below 1, got {decay:g}")
        if enough < 1 or max_keys < 2:
            raise ValueError(f"enough must be >= 1 and max_keys >= 2, got {enough}, {max_keys}")
        self._decay, self._enough, self._max_keys = decay, enough, max_keys
        self._histograms: OrderedDict[tuple[str | None, str], _Histogram] = OrderedDict()
        self.configure(
            share=share, min_tokens=min_tokens, max_tokens=max_tokens, prior_tokens=prior_tokens
        )

    def configure(
        self, *, share: float, min_tokens: int, max_tokens: int, prior_tokens: int
    ) -> None:
        """Change the bounds; what was learned stays. Raises ValueError for what is out of range."""
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share must be above 0 and at most 1, got {share:g}")
        if not 0 <= min_tokens <= prior_tokens <= max_tokens <= MAX_OUTPUT_TOKENS:
            raise ValueError(
                "min_tokens, prior_tokens and max_tokens must ascend from 0 to"
                f" {MAX_OUTPUT_TOKENS}, got {min_tokens}, {prior_tokens}, {max_tokens}"
            )
        self._share = share
        self._min, self._max, self._prior = min_tokens, max_tokens, prior_tokens

    def tokens(self, tenant: str, model: str, declared_max_tokens: int | None = None) -> int:
        """Output tokens to reserve: from ``min_tokens`` to ``max_tokens``, and at most what the
        request declares."""
        estimate = self._prior
        for key in ((tenant, model), (None, model)):
            histogram = self._histograms.get(key)
            if histogram is not None and histogram.observations >= self._enough:
                estimate = histogram.quantile_tokens(self._share)
                break
        estimate = min(self._max, max(self._min, estimate))
        return estimate if declared_max_tokens is None else min(estimate, declared_max_tokens)

    def observe(self, tenant: str, model: str, output_tokens: int) -> None:
        """Learn from a request that ended by itself. An aborted one says nothing about the length
        of the answer."""
        if output_tokens < 0:
            return
        for key in ((tenant, model), (None, model)):
            histogram = self._histograms.get(key)
            if histogram is None:
                if len(self._histograms) >= self._max_keys:
                    self._histograms.popitem(last=False)
                histogram = self._histograms[key] = _Histogram()
            else:
                self._histograms.move_to_end(key)
            histogram.add(output_tokens, self._decay)


def _bin(tokens: int) -> int:
    if tokens <= 1:
        return 0
    return min(_BINS - 1, math.ceil(BINS_PER_DOUBLING * math.log2(tokens)))


def _upper_edge_tokens(index: int) -> int:
    return math.floor(math.exp2(index / BINS_PER_DOUBLING))
