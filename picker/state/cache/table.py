"""A map from hashes to small numbers, in arrays: 24 bytes an entry, no Python objects.

Chained hashing; the table grows by a few buckets at a time (linear hashing, Litwin 1980), so that
no insertion ever has to wait for a large table to be copied.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Entries = npt.NDArray[np.uint32]

_FIRST_BUCKETS: Final = 64
_MOST_AT_ONCE: Final = 4096
"""Entries or buckets: no more than can be made in half a millisecond."""


class HashTable:
    """Keys are hashes of 0 to 2^60-1 that are spread evenly, values 0 to 2^32-1. An entry has a
    number, 1 or more, as long as it is in the table."""

    __slots__ = ("_free", "_heads", "_high", "_low", "_next", "_split", "keys", "length", "values")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """It has no entries."""
        self.keys = array("Q", (0,))
        """By entry; of one that is not in the table, anything."""
        self.values = array("I", (0,))
        self._next = array("I", (0,))
        """By entry: the next one in its bucket, 0 = none. Of free entries: the next free one."""
        self._heads = array("I", bytes(4 * _FIRST_BUCKETS))
        """By bucket: its first entry, 0 = none."""
        self._low, self._high = _FIRST_BUCKETS - 1, 2 * _FIRST_BUCKETS - 1
        self._split = 0
        """The buckets before this one are split already: they go by one more bit."""
        self._free = 0
        self.length = 0

    def __len__(self) -> int:
        return self.length

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        arrays = (self.keys, self.values, self._next, self._heads)
        return sum(one.__sizeof__() for one in arrays)

    def find(self, key: int) -> int:
        """The key's entry, 0 when there is none."""
        bucket = key & self._low
        if bucket < self._split:
            bucket = key & self._high
        entry = self._heads[bucket]
        keys, after = self.keys, self._next
        while entry and keys[entry] != key:
            entry = after[entry]
        return entry

    def put(self, keys: Sequence[int]) -> list[int]:
        """The entries of many keys; those that are not there get one, of value 0, as all entries
        have that are not in the table."""
        self._make_room(len(keys))
        table, after, heads = self.keys, self._next, self._heads
        low, high, split, free = self._low, self._high, self._split, self._free
        new = 0
        entries: list[int] = []
        add = entries.append
        for key in keys:
            bucket = key & low
            if bucket < split:
                bucket = key & high
            entry = head = heads[bucket]
            while entry and table[entry] != key:
                entry = after[entry]
            if not entry:
                entry = free
                free = after[entry]
                table[entry] = key
                after[entry] = head
                heads[bucket] = entry
                new += 1
            add(entry)
        self._free = free
        self.length += new
        return entries

    def take(self, keys: Iterable[int]) -> list[int]:
        """Remove the entries of keys, as far as they are there. Returns their values."""
        table, values, after, heads = self.keys, self.values, self._next, self._heads
        low, high, split, free = self._low, self._high, self._split, self._free
        taken: list[int] = []
        for key in keys:
            bucket = key & low
            if bucket < split:
                bucket = key & high
            before, entry = 0, heads[bucket]
            while entry and table[entry] != key:
                before, entry = entry, after[entry]
            if not entry:
                continue
            if before:
                after[before] = after[entry]
            else:
                heads[bucket] = after[entry]
            taken.append(values[entry])
            values[entry] = 0
            after[entry] = free
            free = entry
        self._free = free
        self.length -= len(taken)
        return taken

    def find_all(self, keys: Hashes) -> Entries:
        """The entries of many keys, 0 where there is none."""
        table = np.frombuffer(self.keys, np.uint64)
        after = np.frombuffer(self._next, np.uint32)
        heads = np.frombuffer(self._heads, np.uint32)
        buckets = keys & np.uint64(self._low)
        if self._split:
            split = buckets < np.uint64(self._split)
            buckets[split] = keys[split] & np.uint64(self._high)
        entries: Entries = heads[buckets]
        wrong = np.flatnonzero(table[entries] != keys)
        while wrong.size:
            wrong = wrong[entries[wrong] != 0]
            further = after[entries[wrong]]
            entries[wrong] = further
            wrong = wrong[table[further] != keys[wrong]]
        return entries

    def drain(self, most: int) -> list[int]:
        """The values of some entries, about ``most``, which are removed; the table can only be
        drained from then on."""
        values, after, heads = self.values, self._next, self._heads
        drained: list[int] = []
        while heads and len(drained) < most:
            entry = heads.pop()
            while entry:
                drained.append(values[entry])
                entry = after[entry]
        self.length -= len(drained)
        return drained

    def _make_room(self, count: int) -> None:
        """For so many more keys."""
        wanted = self.length + count
        while len(self._next) <= wanted:
            first = len(self._next)
            more = min(max(first // 4, 64), _MOST_AT_ONCE)
            self.keys.frombytes(bytes(8 * more))
            self.values.frombytes(bytes(4 * more))
            self._next.extend(range(first + 1, first + more))
            self._next.append(self._free)
            self._free = first
        while 2 * len(self._heads) < 3 * wanted:  # so that chains are short
            self._more_buckets()

    def _more_buckets(self) -> None:
        """Some more: each takes its share of the one that is split for it."""
        split, low, high = self._split, self._low, self._high
        count = min(_MOST_AT_ONCE, low + 1 - split)
        self._heads.frombytes(bytes(4 * count))
        keys = np.frombuffer(self.keys, np.uint64)
        after = np.frombuffer(self._next, np.uint32)
        heads = np.frombuffer(self._heads, np.uint32)
        entries = heads[split : split + count].copy()
        heads[split : split + count] = 0
        while True:  # the first entries of all these buckets, then their second ones ...
            entries = entries[entries != 0]
            if not entries.size:
                break
            following = after[entries]
            buckets = keys[entries] & np.uint64(high)
            after[entries] = heads[buckets]
            heads[buckets] = entries
            entries = following
        split += count
        if split > low:
            self._low, self._high, split = high, 2 * high + 1, 0
        self._split = split
