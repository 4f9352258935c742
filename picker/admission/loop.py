"""Holding requests in asyncio's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator


class LoopHold:
    """See `Hold`."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        """See `Hold`."""
        if not self._future.done():
            self._future.set_result(None)

    def __await__(self) -> Generator[object, None, None]:
        yield from self._future.__await__()


class LoopHolding:
    """See `Holding`. ``now``: the picker's clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def hold(self) -> LoopHold:
        """See `Holding`."""
        return LoopHold()

    def call_at(self, at_s: float, act: Callable[[], None]) -> None:
        """See `Holding`."""
        asyncio.get_running_loop().call_later(max(0.0, at_s - self._now()), act)
