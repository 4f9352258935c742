"""Finds kept decisions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from msgspec import Struct

from picker.decisions.record import MAX_CHARS, Record, Refusal
from picker.decisions.ring import Decisions
from picker.explain.document import Document, document

_AT_ONCE: Final = 16
"""Documents that are made before requests have their turn: they take 1 ms."""
_LOOKED_AT: Final = 1_000


class Query(Struct, frozen=True):
    """Which decisions; "" and None: any."""

    request_id: str = ""
    tenant: str = ""
    model: str = ""
    """As the client named it, or as the replica knows it."""
    pool: str = ""
    endpoint: str = ""
    """First choice, or the replica that served in the end."""
    state: str = ""
    limit: int = 100
    whole: bool = False
    """With what was weighed."""

    def fits(self, kept: Record | Refusal) -> bool:
        """Whether a decision is among them."""
        labels = kept.labels
        return (
            (not self.request_id or self._is_asked_for(kept))
            and (not self.tenant or labels.tenant == self.tenant)
            and (not self.pool or labels.pool == self.pool)
            and (not self.state or kept.state == self.state)
            and (not self.model or self.model in _models(kept))
            and (not self.endpoint or self.endpoint in _endpoints(kept))
        )

    def _is_asked_for(self, kept: Record | Refusal) -> bool:
        asked = self.request_id[:MAX_CHARS]
        return asked in (kept.labels.request_id, kept.id)


class Found(NamedTuple):
    """A decision that fits."""

    at_s: float
    """When it was made, seconds since the epoch."""
    document: Document


class Kept(Struct, frozen=True):
    """How far back a picker remembers."""

    picker: str
    """Its id."""
    decided_total: int
    """Since it began; refusals are not among them."""
    oldest_s: float | None
    """When the oldest decision that is kept was made, seconds since the epoch."""
    forgets: bool
    """Older ones were forgotten."""


class DecisionsOfPicker:
    """Answers from the ring of one picker, in pieces that hold up no request."""

    def __init__(self, picker: str, decisions: Decisions, now: Callable[[], float]) -> None:
        """``now``: the picker's clock."""
        self._picker, self._decisions, self._now = picker, decisions, now

    def kept(self) -> Kept:
        """How far back it remembers."""
        oldest_s, wall_s = self._decisions.oldest_s, self._wall_clock()
        return Kept(
            self._picker,
            self._decisions.sent_total,
            None if oldest_s is None else wall_s(oldest_s),
            self._decisions.has_turned_over,
        )

    async def find(self, query: Query) -> AsyncIterator[Found]:
        """The newest first."""
        wall_s, found = self._wall_clock(), 0
        for place, kept in enumerate(self._decisions.newest_first(), 1):
            if place % _LOOKED_AT == 0:
                await asyncio.sleep(0)
            if not query.fits(kept):
                continue
            found += 1
            made = document(kept, wall_s, picker=self._picker, whole=query.whole)
            yield Found(wall_s(kept.at_s), made)
            if found == query.limit:
                return
            if found % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _wall_clock(self) -> Callable[[float], float]:
        ahead_s = time.time() - self._now()
        return lambda at_s: at_s + ahead_s


def _models(kept: Record | Refusal) -> tuple[str, ...]:
    if isinstance(kept, Refusal):
        return (kept.labels.model,)
    return kept.labels.model, kept.served_model


def _endpoints(kept: Record | Refusal) -> tuple[str, ...]:
    if isinstance(kept, Refusal):
        return ()
    served = kept.report.address if kept.report is not None else ""
    return *(choice.tried[0] for choice in kept.choices), served
