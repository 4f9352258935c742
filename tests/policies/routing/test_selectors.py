"""Selectors, one behaviour at a time."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from policies.registry import build
from policies.routing.selectors import MaxScore, WeightedRandom
from policies.routing.types import Selector


def test_max_orders_by_score() -> None:
    ranking = MaxScore().pick(
        np.array([4, 5, 6, 7]), np.array([0.1, 0.9, 0.5, 0.2]), 3, random.Random(1)
    )
    assert ranking.slots.tolist() == [5, 6, 7]
    assert ranking.scores.tolist() == [0.9, 0.5, 0.2]


def test_exact_ties_are_random_and_the_rest_follows() -> None:
    rng = random.Random(1)
    firsts: Counter[int] = Counter()
    for _ in range(900):
        ranking = MaxScore().pick(np.arange(4), np.array([1.0, 0.5, 1.0, 1.0]), 4, rng)
        firsts[int(ranking.slots[0])] += 1
        assert ranking.slots[-1] == 1
        assert sorted(ranking.slots.tolist()) == [0, 1, 2, 3]
    assert firsts.keys() == {0, 2, 3}
    assert min(firsts.values()) > 230


@pytest.mark.parametrize("name", ["max", "weighted-random"])
def test_no_more_than_there_are(name: str) -> None:
    selector = build("picker", name)
    assert isinstance(selector, Selector)
    ranking = selector.pick(np.array([3]), np.array([0.0]), 3, random.Random(1))
    assert ranking.slots.tolist() == [3]


def test_weighted_random_follows_the_scores() -> None:
    rng = random.Random(1)
    firsts = Counter(
        int(WeightedRandom().pick(np.arange(3), np.array([3.0, 1.0, 0.0]), 2, rng).slots[0])
        for _ in range(4000)
    )
    assert firsts[2] == 0
    assert firsts[0] / firsts[1] == pytest.approx(3, rel=0.15)


def test_weighted_random_without_replacement_takes_zeros_last() -> None:
    ranking = WeightedRandom().pick(np.arange(3), np.array([0.0, 1.0, 0.0]), 3, random.Random(1))
    assert ranking.slots[0] == 1
    assert sorted(ranking.slots.tolist()) == [0, 1, 2]


def test_a_large_exponent_is_nearly_max() -> None:
    rng = random.Random(1)
    selector = WeightedRandom(exponent=500)
    for _ in range(50):
        assert selector.pick(np.arange(2), np.array([4.0, 5.0]), 1, rng).slots.tolist() == [1]
