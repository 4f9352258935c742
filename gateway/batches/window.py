"""How many lines are under way at a time: as many as find idle capacity. Pure; the clock is passed
in."""

from __future__ import annotations

from typing import Final

_FIRST: Final = 8.0
_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 3.0


class Window:
    """Grows with what is answered, and shrinks to what is under way when the gateway has no room
    for more. As long as nothing is answered, one try after the other is further away."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = min(_FIRST, float(most))
        self._seeks = True
        """Nothing was refused yet: grow with each answer."""
        self._refused = 0
        """In a row."""
        self.under_way = 0
        self.paused_until_s = 0.0

    @property
    def size(self) -> int:
        """Lines that may be under way."""
        return max(1, int(self._size))

    def answered(self) -> None:
        """A line was answered; it still counts as under way."""
        self._refused = 0
        if self.under_way >= self.size:
            more = 1.0 if self._seeks else 1.0 / self._size
            self._size = min(float(self._most), self._size + more)

    def refused(self, now_s: float) -> None:
        """A line found no room, or nothing that could serve it; it still counts as under way."""
        self._seeks = False
        if now_s < self.paused_until_s:
            return  # sent before the pause began
        self._size = min(self._size, max(1.0, self.under_way - 1.0))
        pause_s = _PAUSE_S * 2.0 ** min(self._refused, 10)
        self._refused += 1
        self.paused_until_s = now_s + min(_LONGEST_PAUSE_S, pause_s)

    def configure(self, most: int) -> None:
        """Another bound."""
        self._most = most
        self._size = min(self._size, float(most))
