from math import inf

import pytest

from loadtests.sim.serving.clock import LONGEST_LAG_S, ScaledClock


class Wall:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


def test_wall_time_is_engine_time_scaled(wall: Wall) -> None:
    clock = ScaledClock(0.1, wall)
    wall.now_s += 2.0
    assert clock.now_s(inf) == pytest.approx(20.0)
    assert clock.wall_s(30.0) == pytest.approx(1003.0)


def test_it_stands_still_and_goes_on_from_there(wall: Wall) -> None:
    clock = ScaledClock(2.0, wall)
    wall.now_s += 4.0
    clock.stop()
    wall.now_s += 100.0
    clock.stop()
    assert clock.now_s(1.0) <= 2.0
    clock.go_on()
    clock.go_on()
    wall.now_s += 1.0
    assert clock.now_s(inf) == pytest.approx(2.5)


def test_what_was_held_up_for_long_is_late_for_good(wall: Wall) -> None:
    clock = ScaledClock(1.0, wall)
    wall.now_s += 10.0
    assert clock.now_s(due_s=3.0) == pytest.approx(3.0 + LONGEST_LAG_S)
    wall.now_s += 1.0
    assert clock.now_s(inf) == pytest.approx(4.0 + LONGEST_LAG_S)


def test_a_little_late_is_caught_up_with(wall: Wall) -> None:
    clock = ScaledClock(1.0, wall)
    wall.now_s += 3.0
    assert clock.now_s(due_s=3.0 - LONGEST_LAG_S / 2) == pytest.approx(3.0)


def test_time_never_goes_back(wall: Wall) -> None:
    clock = ScaledClock(1.0, wall)
    wall.now_s += 1.0
    clock.jump(1.5)
    assert clock.now_s(inf) == 1.5
    clock.jump(1.2)
    assert clock.now_s(inf) == 1.5


def test_without_a_scale_only_jumps_count(wall: Wall) -> None:
    clock = ScaledClock(0.0, wall)
    wall.now_s += 100.0
    assert clock.now_s(0.0) == 0.0
    clock.jump(7.0)
    assert clock.now_s(0.0) == 7.0


@pytest.mark.parametrize("scale", [-1.0, inf, float("nan")])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="time_scale is"):
        ScaledClock(scale)
