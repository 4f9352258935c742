"""Replays of KV events, a few at a time: after a start, every replica is asked for all it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_MOST: Final = 8
"""A replay brings as much as its engine keeps, 10,000 batches by default."""

Begin = Callable[[], None]


class Replays:
    """Who asks first is served first."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._under_way: set[Begin] = set()
        self._waiting: dict[Begin, None] = {}

    def ask(self, begin: Begin) -> None:
        """Call it now, or when others are over. It may call `over` at once."""
        self._waiting[begin] = None
        self._go_on()

    def over(self, begin: Begin) -> None:
        """Its replay has ended, or is not wanted any more."""
        self._waiting.pop(begin, None)
        self._under_way.discard(begin)
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._under_way) < self._most:
            begin = next(iter(self._waiting))
            del self._waiting[begin]
            self._under_way.add(begin)
            begin()
