"""The weighted policy: filters, then a weighted sum of scorers, then a selector."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from policies.registry import PolicyError, build, register
from policies.routing.selectors import MaxScore
from policies.routing.types import (
    Considered,
    Filter,
    PoolView,
    Ranking,
    RoutingPolicy,
    RoutingRequest,
    Scorer,
    Selector,
    Slots,
)

Part = Mapping[str, object]
"""``{"name": ..., "params": {...}}``; a scorer has a ``"weight"`` too."""

DEFAULT_PROFILE: Mapping[str, Sequence[Part] | Part] = {
    "filters": [{"name": "adapter-served"}],
    "scorers": [
        {"name": "in-flight-tokens", "weight": 4.0},
        {"name": "prefix", "weight": 2.0},
        {"name": "queue", "weight": 0.5},
        {"name": "kv", "weight": 0.5},
        {"name": "lora", "weight": 2.0},
        {"name": "session", "weight": 10.0},
    ],
    "picker": {"name": "max"},
}
"""The blend of the built-in profile ``weighted``.

``in-flight-tokens`` leads: it already trades a cached prefix for the work ahead of it, counts our
own requests at once, and so spreads bursts. ``prefix`` adds what the tokens saved are worth later
(one copy of a prefix evicts less than many do); above half the weight of ``in-flight-tokens`` a
burst of one prompt would pile up on one replica. ``queue`` and ``kv`` see load that is not ours;
they are as old as the last scrape, so they weigh little. ``session`` outweighs all else together.
Weights and ``kv_share`` were chosen by sweeps over the fleet in tests/policies/routing/fleet.py:
multi-turn chat, long code conversations, many and one shared prefix, long answers, one burst.
"""


class WeightedPolicy(RoutingPolicy):
    """Ranks by the weighted sum of scorers over the candidates that pass all filters."""

    def __init__(
        self,
        *,
        filters: Sequence[Filter],
        scorers: Sequence[tuple[Scorer, float]],
        selector: Selector,
    ) -> None:
        self._filters = tuple(filters)
        self._scorers = tuple((scorer, weight) for scorer, weight in scorers if weight != 0)
        self._selector = selector

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        for narrow in self._filters:
            candidates = narrow.keep(request, pool, candidates)
        if candidates.size == 0:
            return Ranking(candidates, np.empty(0))
        total = np.zeros(candidates.size)
        for scorer, weight in self._scorers:
            total += weight * scorer.score(request, pool, candidates)
        ranking = self._selector.pick(candidates, total, count, rng)
        return Ranking(ranking.slots, ranking.scores, considered=Considered(candidates, total))


@register("policy", "weighted")
def weighted_policy(
    scorers: Sequence[Part],
    filters: Sequence[Part] = (),
    picker: Part | None = None,
) -> WeightedPolicy:
    """Filters, then a weighted sum of scorers, then a picker.

    Built from names and parameters; raises PolicyError.
    """
    return WeightedPolicy(
        filters=[_filter(part) for part in _parts("filters", filters)],
        scorers=[_weighted_scorer(part) for part in _parts("scorers", scorers)],
        selector=MaxScore() if picker is None else _selector(picker),
    )


def _parts(where: str, value: object) -> list[Part]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise PolicyError(f"{where} must be a list of objects with a name, got {value!r}")
    return list(value)


def _name_and_params(
    where: str, part: object, also: tuple[str, ...] = ()
) -> tuple[str, Mapping[str, object]]:
    if not isinstance(part, Mapping):
        raise PolicyError(f"{where}: each must be an object with a name, got {part!r}")
    for key in part:
        if key not in ("name", "params", *also):
            right = ", ".join(("name", "params", *also))
            raise PolicyError(f"{where}: unknown key {key!r}; use {right}")
    name, params = part.get("name"), part.get("params", {})
    if not isinstance(name, str):
        raise PolicyError(f"{where}: name must be a string, got {name!r}")
    if not isinstance(params, Mapping):
        raise PolicyError(f"{where} {name!r}: params must be an object, got {params!r}")
    return name, params


def _filter(part: Part) -> Filter:
    name, params = _name_and_params("filters", part)
    built = build("filter", name, params)
    if not isinstance(built, Filter):
        raise PolicyError(f"filter {name!r} has no keep() method")
    return built


def _weighted_scorer(part: Part) -> tuple[Scorer, float]:
    name, params = _name_and_params("scorers", part, also=("weight",))
    weight = part.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
        raise PolicyError(f"scorer {name!r}: weight must be a number from 0, got {weight!r}")
    built = build("scorer", name, params)
    if not isinstance(built, Scorer):
        raise PolicyError(f"scorer {name!r} has no score() method")
    return built, float(weight)


def _selector(part: Part) -> Selector:
    name, params = _name_and_params("picker", part)
    built = build("picker", name, params)
    if not isinstance(built, Selector):
        raise PolicyError(f"picker {name!r} has no pick() method")
    return built
