"""Ticks for an event loop at exact times."""

from __future__ import annotations

import time
from collections.abc import Callable

from loadtests.bench.alarms import Timer


class Metronome:
    """Calls ``due(when_s)`` once for each tick, with the time on time.monotonic() at which the tick
    was due: ``start_s``, ``start_s + period_s``, ... After a delay of the loop, the missed ticks
    follow at once. Raises OSError."""

    def __init__(self, start_s: float, period_s: float, due: Callable[[float], None]) -> None:
        self._start_s = start_s
        self._period_s = period_s
        self._due = due
        self._ticks = 0
        self._timer = Timer(self._tick)
        self._timer.set(start_s, period_s)

    def stop(self) -> None:
        """No more ticks."""
        self._timer.stop()

    def _tick(self) -> None:
        # Computed from the clock, not from the timer's count: the timer's period is rounded to
        # nanoseconds.
        now_s = time.monotonic()
        while not self._timer.stopped:
            when_s = self._start_s + self._ticks * self._period_s
            if when_s > now_s:
                return
            self._ticks += 1
            self._due(when_s)
