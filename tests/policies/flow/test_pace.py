"""Predicted waits, and how many are shed for them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from policies.flow.pace import Pace
from policies.flow.shedding import shed_share


def test_a_wait_is_what_is_ahead_by_the_pace() -> None:
    pace = Pace(0.0)
    for tenth in range(600):
        pace.given(100.0, tenth / 10)
    wait_s = pace.wait_s(5_000.0, 0, 60.0, able_per_s=7.0)
    assert wait_s == pytest.approx(5.0, rel=0.1)


def test_at_first_a_pool_is_believed_to_do_what_it_should_be_able_to() -> None:
    assert Pace(0.0).wait_s(5_000.0, 0, 0.0, able_per_s=1_000.0) == pytest.approx(5.0)
    assert Pace(0.0).wait_s(0.0, 0, 0.0, able_per_s=1_000.0) == 0.0


def test_what_comes_above_takes_its_part_of_the_pace() -> None:
    pace = busy(above=75.0, seconds=200)
    assert pace.wait_s(5_000.0, 5, 200.0, able_per_s=1.0) == pytest.approx(5.0, rel=0.1)
    assert pace.wait_s(5_000.0, 0, 200.0, able_per_s=1.0) == pytest.approx(20.0, rel=0.15)


def test_a_burst_that_waits_by_now_is_not_what_will_come() -> None:
    pace = busy(above=0.0, seconds=60)
    pace.came(5, 20_000.0, 60.0)
    assert pace.wait_s(5_000.0, 0, 60.0, able_per_s=1.0) < 20.0


def test_a_class_is_never_believed_to_get_nothing() -> None:
    pace = busy(above=500.0, seconds=100)
    assert pace.wait_s(5_000.0, 0, 100.0, able_per_s=1.0) == pytest.approx(100.0, rel=0.1)


def busy(*, above: float, seconds: int) -> Pace:
    """A pool that is given 1,000 a second, while so much comes each tenth of one in class 5."""
    pace = Pace(0.0)
    for tenth in range(10 * seconds):
        pace.given(100.0, tenth / 10)
        pace.came(5, above, tenth / 10)
    return pace


def test_shedding_rises_without_a_step() -> None:
    shares = [shed_share(wait_s / 10, 10.0) for wait_s in range(121)]
    assert shares[:26] == [0.0] * 26
    assert shares[100:] == [1.0] * 21
    steps = [after - before for before, after in pairwise(shares)]
    assert min(steps) >= 0
    assert max(steps) < 0.02
    assert shed_share(1.0, 0.0) == 1.0


def test_a_pool_that_gives_nothing_for_hours_has_a_wait_that_can_be_said() -> None:
    pace = Pace(0.0)
    for now_s in (60.0, 600.0, 7_000.0, 20_000.0):
        assert pace.wait_s(1_000.0, 0, now_s, able_per_s=100.0) <= 3600.0
