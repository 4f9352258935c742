"""How endpoints differ from their pool."""

from __future__ import annotations

import random

import numpy as np
import pytest

from policies.routing.pace import Paces


def factors(paces: Paces, slots: int = 4) -> list[float]:
    return [float(one) for one in paces.take(np.arange(slots))]


def learn(paces: Paces, slot: int, pace: float, times: int, rng: random.Random) -> None:
    for _ in range(times):
        paces.observe(slot, pace * rng.lognormvariate(0.0, 0.3), 1.0)


def test_equal_endpoints_stay_equal_and_unknown_ones_are_as_the_pool() -> None:
    paces, rng = Paces(), random.Random(1)
    for slot in (0, 1, 2):
        learn(paces, slot, 1.0, 100, rng)
    assert factors(paces) == [pytest.approx(1.0, abs=0.03)] * 3 + [1.0]
    assert paces.of(99) == 1.0


def test_a_slow_kind_is_known_by_its_factor_after_some_answers() -> None:
    paces, rng = Paces(), random.Random(2)
    for _ in range(30):
        for slot, pace in enumerate((1.0, 1.0, 2.0, 2.0)):
            learn(paces, slot, pace, 1, rng)
    paces.center()
    fast, _, _, slow = factors(paces)
    assert slow / fast == pytest.approx(2.0, rel=0.3)
    assert fast < 1.0 < slow


def test_an_endpoint_that_slows_down_is_followed_and_one_wild_value_is_not() -> None:
    paces, rng = Paces(), random.Random(3)
    learn(paces, 0, 1.0, 300, rng)
    paces.observe(0, 1e6, 1.0)
    paces.observe(0, 0.0, 0.0)
    assert paces.of(0) == pytest.approx(1.0, abs=0.05)
    learn(paces, 0, 3.0, 80, rng)
    assert paces.of(0) == pytest.approx(3.0, rel=0.3)


def test_another_endpoint_in_a_slot_begins_like_the_pool() -> None:
    paces = Paces()
    learn(paces, 1, 5.0, 50, random.Random(4))
    paces.reset(1)
    paces.reset(77)
    assert factors(paces) == [1.0] * 4
    assert paces.snapshot() == {}


def test_what_is_kept_comes_back_and_damage_does_not() -> None:
    paces, again = Paces(), Paces()
    learn(paces, 2, 5.0, 50, random.Random(5))
    saved = paces.snapshot()
    for slot, pace in saved.items():
        again.restore(slot, pace)
    assert again.snapshot() == pytest.approx(saved)
    for slot, damaged in (
        ("x", 2.0),
        ("-1", 2.0),
        ("9999999", 2.0),
        ("0", "2"),
        ("0", float("nan")),
    ):
        again.restore(slot, damaged)
    assert again.snapshot() == pytest.approx(saved)
