"""Work of many small parts on the event loop, a few milliseconds at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

_TURN_S: Final = 0.002
"""The loop does other things after so much work."""
_AFTER_ERROR_S: Final = 1.0
"""Work that failed is tried again after this time."""

Work = Callable[[float], bool]
"""Do some of it until a time of `time.perf_counter`; true when there is more."""


class Turns:
    """Whoever has work is served in turn. Used from one loop."""

    def __init__(self) -> None:
        self._waiting: dict[Work, None] = {}
        self._handle: asyncio.Handle | None = None

    def add(self, work: Work) -> None:
        """There is something to do."""
        self._waiting[work] = None
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._run)

    def drop(self, work: Work) -> None:
        """It is not to be called any more."""
        self._waiting.pop(work, None)

    def _run(self) -> None:
        self._handle = None
        until_s = time.perf_counter() + _TURN_S
        while self._waiting and time.perf_counter() < until_s:
            work = next(iter(self._waiting))
            del self._waiting[work]
            try:
                more = work(until_s)
            except Exception:  # one's mistake must not end the others' work, nor its own
                log.exception("a turn has failed")
                asyncio.get_running_loop().call_later(_AFTER_ERROR_S, self.add, work)
                continue
            if more:
                self._waiting[work] = None
        if self._waiting and self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._run)
