"""The seam to whatever lets time pass: requests that are held, and alarms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol


class Hold(Awaitable[None], Protocol):
    """A request waits for it, once."""

    def release(self) -> None:
        """Let it go on. Any number of times; nothing happens after the first, nor when the request
        has given up."""


class Holding(Protocol):
    """Makes holds, and calls back."""

    def hold(self) -> Hold:
        """A new one, held."""
        ...

    def call_at(self, at_s: float, act: Callable[[], None]) -> None:
        """Call ``act`` at that time of the picker's clock, or soon after."""
        ...
