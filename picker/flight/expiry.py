"""Leases of requests under way: which have run out."""

from __future__ import annotations

from typing import Final

from picker.flight.entry import Entry

_BUCKET_S: Final = 10.0


class Leases:
    """Entries by the end of their lease, in buckets: adding and removing cost O(1), and only
    buckets that are due are looked through."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[str, Entry]] = {}

    def add(self, entry: Entry) -> None:
        """Its lease begins."""
        self._buckets.setdefault(_bucket(entry.lease_until_s), {})[entry.id] = entry

    def remove(self, entry: Entry) -> None:
        """Its lease does not matter any more; harmless when it is not here."""
        number = _bucket(entry.lease_until_s)
        bucket = self._buckets.get(number)
        if bucket is not None and bucket.pop(entry.id, None) is not None and not bucket:
            del self._buckets[number]

    def expired(self, now_s: float) -> list[Entry]:
        """Entries whose lease has run out."""
        last = _bucket(now_s)
        return [
            entry
            for number, entries in self._buckets.items()
            if number <= last
            for entry in entries.values()
            if entry.lease_until_s <= now_s
        ]


def _bucket(time_s: float) -> int:
    return int(time_s // _BUCKET_S)
