"""Requests without a reported end whose engine shows nothing to do, and which of them live."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from picker.flight.entry import Entry

SIGN_S: Final = 20.0
"""The data plane gives a sign of life of each request under way so often."""
DOUBT_S: Final = 3 * SIGN_S
"""Without any for so long a request's report may be lost."""


class _Watched(NamedTuple):
    entry: Entry
    since_s: float
    """Of its last sign of life; before the first, of its silence."""
    lived: bool
    """There was a sign."""


class Quiet:
    """Entries that the ledger no longer counts. Each call costs O(1)."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        """By pool and address."""
        self._watched: OrderedDict[str, _Watched] = OrderedDict()
        """Those that may be doubted, the longest without a sign first."""

    def add(self, entry: Entry, now_s: float) -> None:
        """Its engine has nothing to do from now on, as far as is known."""
        where = (entry.pool, entry.answering.address)
        self._counts[where] = self._counts.get(where, 0) + 1
        if not entry.attended:
            self._watched[entry.id] = _Watched(entry, now_s, lived=False)

    def remove(self, entry: Entry) -> None:
        """One that was added is quiet no more."""
        where = (entry.pool, entry.answering.address)
        self._counts[where] -= 1
        if not self._counts[where]:
            del self._counts[where]
        self._watched.pop(entry.id, None)

    def lives(self, id: str, now_s: float) -> None:  # noqa: A002 - the request's id
        """A sign of life; of what is not here it means nothing."""
        watched = self._watched.get(id)
        if watched is not None:
            self._watched[id] = watched._replace(since_s=now_s, lived=True)
            self._watched.move_to_end(id)

    def has_lived(self, entry: Entry) -> bool:
        """It goes on although its engine shows nothing of it, and is not doubted."""
        watched = self._watched.get(entry.id)
        return watched is not None and watched.lived

    def doubtful(self, now_s: float) -> list[Entry]:
        """Entries without a sign of life for too long, each once."""
        found = []
        for watched in self._watched.values():
            if watched.since_s + DOUBT_S > now_s:
                break
            found.append(watched.entry)
        for entry in found:
            del self._watched[entry.id]
        return found

    def count(self, pool: str, address: str) -> int:
        """How many an endpoint has."""
        return self._counts.get((pool, address), 0)
