"""An endpoint with its place in time."""

from __future__ import annotations

import asyncio

from picker.signals.settings import ScrapedPool
from picker.signals.sharing import Sharing, reader_of
from picker.signals.target import Target


class Watched:
    """An endpoint and when it is read next: it has either a timer or a task, never both."""

    __slots__ = (
        "_is_ours",
        "_members",
        "again",
        "busy_until_s",
        "due_s",
        "has_news",
        "pool",
        "target",
        "task",
        "timer",
    )

    def __init__(self, pool: ScrapedPool, target: Target) -> None:
        self.pool = pool
        self.target = target
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.due_s = 0.0
        """When the timer ends."""
        self.busy_until_s = 0.0
        self.again = False
        """To be read once more after the task."""
        self.has_news = False
        """Another worker has read it since the timer was set."""
        self._members: tuple[str, ...] = ()
        self._is_ours = False

    def is_ours(self, sharing: Sharing) -> bool:
        """This worker is its reader."""
        members = sharing.members
        if members is not self._members:
            self._members = members
            reader = reader_of(self.pool.name, self.target.address, members)
            self._is_ours = reader == sharing.name
        return self._is_ours
