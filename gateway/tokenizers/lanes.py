"""Threads that tokenize: one for short prompts, one for long ones. Who sends long prompts delays no
short ones, and nobody waits for more than a moment's work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_LONG_BYTES: Final = 1 << 16
_NEWEST: Final = 0.1
"""Weight of the latest call in the time that they use to take."""
_MOST_WAIT_S: Final = 0.05
_MOST_LONG_BYTES: Final = 16 << 20
"""Of long prompts that wait: a few seconds of work."""


class Lanes:
    """Runs what makes tokens, in the loop that asks."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="tokens-long")
        self._waiting = self._waiting_bytes = 0
        self._usual_s = 0.0

    def run(
        self, work: Callable[[], bytes | None], size_bytes: int
    ) -> asyncio.Future[bytes | None] | None:
        """``work`` in a thread; None: it would have to wait too long."""
        loop = asyncio.get_running_loop()
        if size_bytes > _LONG_BYTES:
            if self._waiting_bytes + size_bytes > _MOST_LONG_BYTES:
                return None
            self._waiting_bytes += size_bytes
            made = loop.run_in_executor(self._long, work)
            made.add_done_callback(lambda _: self._long_done(size_bytes))
            return made
        if self._waiting * self._usual_s > _MOST_WAIT_S:
            return None
        self._waiting += 1
        made = loop.run_in_executor(self._short, self._timed, work)
        made.add_done_callback(lambda _: self._short_done())
        return made

    def close(self) -> None:
        """What waits is not done any more."""
        for one in (self._short, self._long):
            one.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[], bytes | None]) -> bytes | None:
        started_s = time.perf_counter()
        try:
            return work()
        finally:
            took_s = time.perf_counter() - started_s
            self._usual_s += _NEWEST * (took_s - self._usual_s)

    def _short_done(self) -> None:
        self._waiting -= 1

    def _long_done(self, size_bytes: int) -> None:
        self._waiting_bytes -= size_bytes
