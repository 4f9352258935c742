"""Whose line goes next: in turn by what each was given. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class Turns:
    """By name, what each was given. Who joins late has no credit for the time before."""

    def __init__(self) -> None:
        self._given: dict[str, float] = {}

    def join(self, name: str) -> None:
        """It has something to send from now on."""
        if name not in self._given:
            self._given[name] = min(self._given.values(), default=0.0)

    def leave(self, name: str) -> None:
        """It has nothing more to send."""
        self._given.pop(name, None)

    def charge(self, name: str, cost: float) -> None:
        """It was given so much, or less than it was charged."""
        if name in self._given:
            self._given[name] += cost

    def order(self, names: Iterable[str]) -> list[str]:
        """Those that were given least first."""
        return sorted(names, key=lambda name: self._given.get(name, 0.0))
