"""Prompts of requests under way, counted by the engine when an end comes without usage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from picker.prompt.forms import Prompt
from picker.prompt.measure import countable
from picker.seams.engine_counts import EngineCounts

log = logging.getLogger(__name__)

_MOST_KEPT_BYTES: Final = 64 << 20


class Recount:
    """Keeps texts, as many as there is room for, until their requests have ended. One that has
    ended is counted by the engine before it is settled: a client that leaves at the first token is
    charged the prompt that was read, not a guess at it."""

    def __init__(self, engine: EngineCounts, *, most_bytes: int = _MOST_KEPT_BYTES) -> None:
        self._engine = engine
        self._most_bytes = most_bytes
        self._kept: dict[str, tuple[str, Sequence[bytes]]] = {}
        self._counting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.kept_bytes = 0

    def keep(self, id: str, pool: str, prompt: Prompt) -> None:  # noqa: A002 - a request's
        """Keep the prompt of a request that is sent, if it can be counted and there is room.
        Documents that share a query are answered as a whole, with their usage."""
        if prompt.shared or not self._engine.can_count(pool):
            return
        texts = countable(prompt)
        size = sum(map(len, texts))
        if size and self.kept_bytes + size <= self._most_bytes:
            self._kept[id] = (pool, texts)
            self.kept_bytes += size

    def drop(self, id: str) -> None:  # noqa: A002 - a request's
        """Its request has ended; harmless when nothing is kept."""
        kept = self._kept.pop(id, None)
        if kept is not None:
            self.kept_bytes -= sum(map(len, kept[1]))

    def count(
        self,
        id: str,  # noqa: A002 - a request's
        address: str,
        model: str,
        then: Callable[[int | None], None],
    ) -> bool:
        """Have a kept prompt counted and call ``then`` with its tokens, None when nobody says.
        False: it is not kept. A second time, for one that is being counted: nothing happens."""
        if id in self._counting:
            return True
        kept = self._kept.get(id)
        if kept is None or not self._engine.can_count(kept[0]):
            return False
        pool, texts = kept
        self._counting.add(id)
        task = asyncio.get_running_loop().create_task(
            self._count(id, pool, address, model, texts, then), name=f"tokens of {id}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def finished(self) -> None:
        """Return when everything that was asked for is counted."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _count(
        self,
        id: str,  # noqa: A002 - a request's
        pool: str,
        address: str,
        model: str,
        texts: Sequence[bytes],
        then: Callable[[int | None], None],
    ) -> None:
        tokens = None
        try:
            tokens = await self._engine.tokens(pool, address, model, texts)
        finally:
            self._counting.discard(id)
            then(tokens)
