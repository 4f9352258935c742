"""Exact ticks for an event loop: the kernel's timerfd, because loop timers are rounded to 1 ms."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("first", _TimeSpec))


def _spec(seconds: float) -> _TimeSpec:
    whole = int(seconds)
    return _TimeSpec(whole, int((seconds - whole) * 1e9))


class Metronome:
    """Calls ``due(when_s)`` once for each tick, with the time on time.monotonic() at which the tick
    was due: ``start_s``, ``start_s + period_s``, ... After a delay of the loop, the missed ticks
    follow at once."""

    def __init__(self, start_s: float, period_s: float, due: Callable[[float], None]) -> None:
        self._start_s = start_s
        self._period_s = period_s
        self._due = due
        self._ticks = 0
        self._loop = asyncio.get_running_loop()
        # Python 3.13 has os.timerfd_create.
        self._file = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        when = _TimerSpec(_spec(period_s), _spec(max(start_s, time.monotonic())))
        _LIBC.timerfd_settime(self._file, _TFD_TIMER_ABSTIME, ctypes.byref(when), None)
        self._loop.add_reader(self._file, self._tick)

    def stop(self) -> None:
        """No more ticks."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _tick(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return
        # Computed from the clock, not from the timer's count: the timer's period is rounded to
        # nanoseconds.
        now_s = time.monotonic()
        while self._file >= 0:
            when_s = self._start_s + self._ticks * self._period_s
            if when_s > now_s:
                return
            self._ticks += 1
            self._due(when_s)
