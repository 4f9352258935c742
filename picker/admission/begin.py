"""How long it takes from the turn of a request to its first token, for those that have waited."""

from __future__ import annotations

from typing import Final

_FADING: Final = 0.05
_PRIOR_S: Final = 0.2
_DEVIATIONS: Final = 2.0


class BeginTime:
    """Mean and mean deviation, faded (as Jacobson estimates round trips, 1988)."""

    def __init__(self) -> None:
        self._mean_s = _PRIOR_S
        self._off_s = 0.0

    @property
    def most_s(self) -> float:
        """Nearly all take no longer."""
        return self._mean_s + _DEVIATIONS * self._off_s

    def observe(self, seconds: float) -> None:
        """One has had its first token."""
        self._off_s += _FADING * (abs(seconds - self._mean_s) - self._off_s)
        self._mean_s += _FADING * (seconds - self._mean_s)
