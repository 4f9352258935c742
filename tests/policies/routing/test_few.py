"""Few candidates are ranked in plain numbers: the same choices and scores, to the last bit."""

from __future__ import annotations

import random

import numpy as np
import pytest

from policies.registry import build
from policies.routing.few import FEW, FewBlend
from policies.routing.selectors import WeightedRandom
from policies.routing.types import AdapterView, Floats, PoolView, RoutingRequest
from policies.routing.weighted import DEFAULT_PROFILE, WeightedPolicy

_SLOTS = 12


def default_policy() -> WeightedPolicy:
    built = build("policy", "weighted", DEFAULT_PROFILE)
    assert isinstance(built, WeightedPolicy)
    return built


@pytest.mark.parametrize("seed", range(60))
def test_the_same_as_by_arrays(seed: int) -> None:
    draw = np.random.default_rng(seed)

    def column(most: int) -> Floats:
        """Of few different values, so that there are ties; or all the same; or odd ones."""
        kinds = (
            np.zeros(_SLOTS),
            np.full(_SLOTS, float(draw.integers(most))),
            draw.integers(0, 3, _SLOTS) * (most / 2),
            draw.random(_SLOTS) * most,
        )
        return np.asarray(kinds[draw.integers(len(kinds))], np.float64)

    by_lists, by_arrays = default_policy(), default_policy()
    assert by_lists._few is not None
    by_arrays._few = None
    rngs = random.Random(seed), random.Random(seed)
    for _ in range(20):
        highs = (10, 30, 1, 500_000, 20, 100_000, 300_000, 3, 3)
        pool = PoolView(*map(column, highs))
        flags = (draw.random((3, _SLOTS)) < 0.5) if draw.random() < 0.3 else None
        request = RoutingRequest(
            prompt_tokens=float(draw.choice([0.0, 50.0, 1_000.0, 8_000.5])),
            max_output_tokens=200.0,
            matched_tokens=column(9_000),
            adapter=None if flags is None else AdapterView(*flags),
            session_slot=None if draw.random() < 0.5 else int(draw.integers(_SLOTS)),
        )
        size = int(draw.integers(1, FEW + 1))
        candidates = np.sort(draw.permutation(_SLOTS)[:size]).astype(np.intp)
        one, other = (
            policy.rank(request, pool, candidates, 3, 0.0, rng)
            for policy, rng in zip((by_lists, by_arrays), rngs, strict=True)
        )
        assert one.slots.tolist() == other.slots.tolist()
        assert one.scores.tolist() == other.scores.tolist()
    assert rngs[0].random() == rngs[1].random()


def test_parts_of_others_are_left_to_them() -> None:
    policy = default_policy()
    assert FewBlend.of([(object(), 1.0)], policy._selector) is None  # type: ignore[list-item]
    assert FewBlend.of(policy._scorers, WeightedRandom()) is None
