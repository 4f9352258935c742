"""The seam to work that no request waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Background(Protocol):
    """Does jobs in the order in which they come, one at a time."""

    def submit(self, job: Callable[[], None], size_bytes: int = 0) -> bool:
        """False: too much waits already, and the job is not done. One of size 0 is always taken.
        ``job`` raises nothing."""
        ...


class AtOnce:
    """While the caller waits: for simulators and tests, where the order of things is given."""

    def submit(self, job: Callable[[], None], size_bytes: int = 0) -> bool:
        """See `Background`."""
        job()
        return True
