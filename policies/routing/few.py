"""A weighted blend of few candidates in plain numbers.

A call of numpy costs as much as a dozen of sums, and a ranking has fifty calls, whatever the number
of candidates. So the built-in scorers stand here once more, for lists; scores and choices are the
same to the last bit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from policies.routing.scorers import InFlightTokens, KvUsage, Lora, Prefix, Queue, Session
from policies.routing.selectors import MaxScore
from policies.routing.types import PoolView, Ranking, RoutingRequest, Scorer, Selector, Slots

FEW: Final = 8
"""Up to so many candidates this is the faster way."""

_Score = Callable[[RoutingRequest, PoolView, Slots], list[float]]
"""One score in [0, 1] for each candidate."""


class FewBlend:
    """What `policies.routing.weighted.WeightedPolicy` does with those that pass its filters."""

    def __init__(self, scores: Sequence[tuple[_Score, float]]) -> None:
        self._scores = tuple(scores)

    @classmethod
    def of(cls, scorers: Sequence[tuple[Scorer, float]], selector: Selector) -> FewBlend | None:
        """None: some part is not among those that stand here."""
        made = [(_PLAIN.get(type(scorer)), scorer, weight) for scorer, weight in scorers]
        if type(selector) is not MaxScore or any(make is None for make, _, _ in made):
            return None
        return cls([(make(scorer), weight) for make, scorer, weight in made if make is not None])

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        rng: random.Random,
    ) -> Ranking:
        """See `RoutingPolicy`; there is at least one candidate."""
        total = [0.0] * candidates.size
        for score, weight in self._scores:
            scores = score(request, pool, candidates)
            total = [so_far + weight * more for so_far, more in zip(total, scores, strict=True)]
        left, chosen = total.copy(), []
        for _ in range(min(count, len(left))):
            most = max(left)
            best, ties = left.index(most), left.count(most)
            if ties > 1:
                equal = [index for index, score_left in enumerate(left) if score_left == most]
                best = equal[rng.randrange(ties)]
            chosen.append(best)
            left[best] = -math.inf
        return Ranking(candidates.take(chosen), np.array([total[index] for index in chosen]))


def _queue(_: Scorer) -> _Score:
    def score(_: RoutingRequest, pool: PoolView, candidates: Slots) -> list[float]:
        waiting = pool.waiting_requests.take(candidates).tolist()
        most, fewest = max(waiting), min(waiting)
        if most == fewest:
            return [1.0] * len(waiting)
        return [(most - one) / (most - fewest) for one in waiting]

    return score


def _kv_usage(_: Scorer) -> _Score:
    def score(_: RoutingRequest, pool: PoolView, candidates: Slots) -> list[float]:
        used = pool.kv_usage.take(candidates).tolist()
        return [min(max(1.0 - one, 0.0), 1.0) for one in used]

    return score


def _prefix(_: Scorer) -> _Score:
    def score(request: RoutingRequest, _: PoolView, candidates: Slots) -> list[float]:
        prompt = request.prompt_tokens
        if prompt <= 0:
            return [0.0] * candidates.size
        matched = request.matched_tokens.take(candidates).tolist()
        return [min(one / prompt, 1.0) for one in matched]

    return score


def _in_flight_tokens(scorer: Scorer) -> _Score:
    assert isinstance(scorer, InFlightTokens)
    kv_share, slack_tokens = scorer.kv_share, scorer.slack_tokens

    def score(request: RoutingRequest, pool: PoolView, candidates: Slots) -> list[float]:
        kv_tokens = pool.in_flight_kv_tokens.take(candidates).tolist()
        capacities = pool.kv_capacity_tokens.take(candidates)
        capacity = capacities.tolist()
        most = max(capacity)
        if most > 0 and most != min(capacity):
            # As numpy adds them up.
            mean = capacities.sum().item() / sum(one > 0 for one in capacity)
            kv_tokens = [
                held * (mean / (room if room > 0 else mean))
                for held, room in zip(kv_tokens, capacity, strict=True)
            ]
        prefill = pool.in_flight_prefill_tokens.take(candidates).tolist()
        matched = request.matched_tokens.take(candidates).tolist()
        prompt = request.prompt_tokens
        work = [
            held * kv_share + ahead - min(cached, prompt)
            for held, ahead, cached in zip(kv_tokens, prefill, matched, strict=True)
        ]
        scale = prompt + slack_tokens
        more = scale - min(work)
        return [scale / (one + more) for one in work]

    return score


def _lora(_: Scorer) -> _Score:
    scorer = Lora()

    def score(request: RoutingRequest, pool: PoolView, candidates: Slots) -> list[float]:
        if request.adapter is None:
            return [1.0] * candidates.size
        scores: list[float] = scorer.score(request, pool, candidates).tolist()
        return scores

    return score


def _session(_: Scorer) -> _Score:
    def score(request: RoutingRequest, _: PoolView, candidates: Slots) -> list[float]:
        bound = request.session_slot
        if bound is None:
            return [0.0] * candidates.size
        return [1.0 if slot == bound else 0.0 for slot in candidates.tolist()]

    return score


_PLAIN: Final[Mapping[type, Callable[[Scorer], _Score]]] = MappingProxyType(
    {
        Queue: _queue,
        KvUsage: _kv_usage,
        Prefix: _prefix,
        InFlightTokens: _in_flight_tokens,
        Lora: _lora,
        Session: _session,
    }
)
