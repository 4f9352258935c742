"""The shape of a baseline: one score per candidate."""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import ClassVar, Protocol

import numpy as np

from policies.routing.filters import AdapterServed
from policies.routing.selectors import MaxScore
from policies.routing.types import (
    Considered,
    Floats,
    PoolView,
    Ranking,
    RoutingPolicy,
    RoutingRequest,
    Slots,
)

_ADAPTER_SERVED = AdapterServed()
_MAX_SCORE = MaxScore()


class Baseline(RoutingPolicy, Protocol):
    """A policy given by one score per candidate, the highest is the best; exact ties at random.

    A request for an adapter goes only where the adapter is served, whatever the formula: the
    routers that the baselines imitate also check that before they score.
    """

    @abstractmethod
    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        """One finite score per candidate, in any unit; candidates are never empty."""

    hears_first_tokens: ClassVar[bool] = False
    """The router that it imitates sees each first token as it streams by, and takes the request off
    its prefill backlog then. A driver that can, shows the same to `in_flight_prefill_tokens`; the
    picker learns it a scrape later."""

    def chosen(self, request: RoutingRequest, slot: int) -> None:
        """The request goes to ``slot``; for baselines that remember it."""
        return

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        candidates = _ADAPTER_SERVED.keep(request, pool, candidates)
        if candidates.size == 0:
            return Ranking(candidates, np.empty(0))
        scores = self.scores(request, pool, candidates, rng)
        ranking = _MAX_SCORE.pick(candidates, scores, count, rng)
        if ranking.slots.size:
            self.chosen(request, int(ranking.slots[0]))
        return Ranking(ranking.slots, ranking.scores, considered=Considered(candidates, scores))


def preferred_first(preferred: Slots, candidates: Slots, scores: Floats) -> Floats:
    """``scores`` with those of the ``preferred`` lifted above all others; the order among the
    preferred, and among the others, is kept."""
    lift = float(np.ptp(scores)) + 1.0
    return scores + lift * np.isin(candidates, preferred)
