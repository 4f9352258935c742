"""Exact times for an event loop: the kernel's timerfd, because loop timers are rounded to 1 ms."""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
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


class Timer:
    """The kernel's timer; times are those of time.monotonic(). Raises OSError."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        # Python 3.13 has os.timerfd_create.
        self._file: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop.add_reader(self._file, self._read)

    def set(self, first_s: float, period_s: float = 0.0) -> None:
        """Ring at ``first_s``, and then every ``period_s`` unless it is 0."""
        when = _TimerSpec(_spec(period_s), _spec(max(first_s, time.monotonic())))
        _LIBC.timerfd_settime(self._file, _TFD_TIMER_ABSTIME, ctypes.byref(when), None)

    def stop(self) -> None:
        """It does not ring again."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    @property
    def stopped(self) -> bool:
        return self._file < 0

    def _read(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return
        self._ring()


class Alarms:
    """Calls back once for each time that was asked for."""

    def __init__(self) -> None:
        self._timer = Timer(self._due)
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when_s: float, call: Callable[[], None]) -> None:
        """Call at ``when_s`` on time.monotonic(), or at once when that is over."""
        is_next = not self._waiting or when_s < self._waiting[0][0]
        heapq.heappush(self._waiting, (when_s, next(self._order), call))
        if is_next:
            self._timer.set(when_s)

    def stop(self) -> None:
        """What is still waiting is never called."""
        self._timer.stop()
        self._waiting.clear()

    def _due(self) -> None:
        now_s = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now_s:
            heapq.heappop(self._waiting)[2]()
        if self._waiting:
            self._timer.set(self._waiting[0][0])
