"""Replays come a few at a time."""

from __future__ import annotations

from picker.signals.kv_replays import Replays


def test_who_asks_first_is_served_first_and_never_too_many_at_once() -> None:
    replays, begun = Replays(most=2), list[int]()
    asks = [lambda number=number: begun.append(number) for number in range(5)]
    for ask in asks:
        replays.ask(ask)
    assert begun == [0, 1]
    replays.over(asks[3])  # it is not wanted any more
    replays.over(asks[1])
    assert begun == [0, 1, 2]
    replays.over(asks[1])
    replays.over(asks[0])
    assert begun == [0, 1, 2, 4]
    replays.over(asks[2])
    replays.over(asks[4])
    replays.ask(asks[0])
    assert begun == [0, 1, 2, 4, 0]


def test_one_that_ends_at_once_leaves_its_place() -> None:
    replays, begun = Replays(most=1), list[str]()

    def fails() -> None:
        begun.append("fails")
        replays.over(fails)

    replays.ask(fails)
    replays.ask(fails)
    replays.ask(lambda: begun.append("next"))
    assert begun == ["fails", "fails", "next"]
