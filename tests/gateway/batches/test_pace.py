"""How many lines are sent, and whose."""

from __future__ import annotations

from gateway.batches.turns import Turns
from gateway.batches.window import Window


def test_the_window_grows_until_there_is_no_room_and_then_keeps_to_what_runs() -> None:
    window = Window(100)
    assert window.size == 8
    for _ in range(20):
        window.under_way = window.size
        window.answered()
    assert window.size == 28
    window.under_way = 20
    window.refused(1.0)
    assert window.size == 19
    assert 1.0 < window.paused_until_s < 1.1
    for _ in range(20):
        window.under_way = window.size
        window.answered()
    assert window.size == 20


def test_a_window_grows_only_when_it_is_used() -> None:
    window = Window(100)
    window.under_way = 3
    for _ in range(50):
        window.answered()
    assert window.size == 8


def test_pauses_grow_while_nothing_is_answered() -> None:
    window, now_s, pauses = Window(100), 0.0, []
    window.under_way = 1
    for _ in range(12):
        window.refused(now_s)
        pauses.append(window.paused_until_s - now_s)
        now_s = window.paused_until_s
    assert pauses == sorted(pauses)
    assert pauses[-1] == 3.0
    assert window.size == 1
    window.answered()
    window.refused(now_s)
    assert window.paused_until_s - now_s < 0.1


def test_a_bound_holds() -> None:
    window = Window(3)
    for _ in range(10):
        window.under_way = window.size
        window.answered()
    assert window.size == 3


def test_who_was_given_least_goes_next_and_who_comes_late_has_no_credit() -> None:
    turns = Turns()
    turns.join("a")
    turns.join("b")
    turns.charge("a", 100.0)
    turns.charge("b", 50.0)
    assert turns.order(["a", "b"]) == ["b", "a"]
    turns.join("late")
    turns.charge("late", 10.0)
    assert turns.order(["a", "b", "late"]) == ["b", "late", "a"]
    turns.leave("b")
    turns.charge("b", 5.0)
    assert turns.order(["a", "late"]) == ["late", "a"]
