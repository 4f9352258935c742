"""The engine's clock in a server: scaled wall time that can be stopped, and that is never far
behind."""

import time
from collections.abc import Callable

LONGEST_LAG_S = 0.05
"""Wall seconds. An engine that was delayed for longer stays late; it does not catch up."""


class ScaledClock:
    """Engine seconds since the start: wall seconds / ``time_scale``, without the time it was
    stopped.

    With a time scale of 0 wall time does not matter: the clock is where `jump` has put it.
    """

    def __init__(self, time_scale: float, wall: Callable[[], float] = time.monotonic) -> None:
        if not 0.0 <= time_scale < float("inf"):
            raise ValueError(f"time_scale is {time_scale}, must be a number that is not negative")
        self.time_scale = time_scale
        self._wall = wall
        self._zero_s = wall()
        """Wall time at which the engine's time was 0, if the clock had never been stopped."""
        self._stopped_s: float | None = None
        self._latest_s = 0.0

    @property
    def stopped(self) -> bool:
        """Whether the clock is stopped."""
        return self._stopped_s is not None

    def now_s(self, due_s: float) -> float:
        """Engine time. A ``due_s`` that passed more than LONGEST_LAG_S ago counts as that long
        ago."""
        if self.time_scale and self._stopped_s is None:
            wall_s = self._wall()
            late_s = wall_s - self.wall_s(due_s)
            if late_s > LONGEST_LAG_S:
                self._zero_s += late_s - LONGEST_LAG_S
            self.jump((wall_s - self._zero_s) / self.time_scale)
        return self._latest_s

    def jump(self, to_s: float) -> None:
        """Move the clock forward to this engine time; it never goes back."""
        self._latest_s = max(self._latest_s, to_s)

    def wall_s(self, at_s: float) -> float:
        """The wall time of an engine time, by the clock's last stop."""
        if not self.time_scale:
            return self._wall()
        return self._zero_s + at_s * self.time_scale

    def stop(self) -> None:
        """Stop the clock, unless it is stopped."""
        if self._stopped_s is None:
            self._stopped_s = self._wall()

    def go_on(self) -> None:
        """Let the clock go on from where it stopped, if it is stopped."""
        if self._stopped_s is not None:
            self._zero_s += self._wall() - self._stopped_s
            self._stopped_s = None
