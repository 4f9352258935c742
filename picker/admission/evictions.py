"""Requests under way that may be ended so that others can begin: nothing of their answer has begun,
and an operator allows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from msgspec import Struct

from picker.request.rejection import Rejection
from policies.flow.item import Item


class Evictable(Struct, eq=False):
    """A request under way."""

    id: str
    address: str
    """Where it was sent."""
    item: Item
    evict: Callable[[Rejection], None]
    """End it: its client gets this answer, and its engine stops."""


class Evictions:
    """By pool, in the order in which they were sent."""

    def __init__(self) -> None:
        self._pools: defaultdict[str, dict[str, Evictable]] = defaultdict(dict)

    def add(self, pool: str, one: Evictable) -> None:
        """A request may be evicted from now on."""
        self._pools[pool][one.id] = one

    def remove(self, pool: str, id_: str) -> None:
        """A request has ended, or its answer has begun. Harmless for one that is not there."""
        self._pools[pool].pop(id_, None)

    def take(self, pool: str, address: str) -> Evictable | None:
        """The one to evict for a request that waits for an endpoint, which it is no longer: of the
        lowest priority, there rather than elsewhere, and the one that was sent last. None: there is
        none."""
        found: Evictable | None = None
        for one in reversed(self._pools[pool].values()):
            if found is None or _rank(one, address) < _rank(found, address):
                found = one
        if found is not None:
            del self._pools[pool][found.id]
        return found


def _rank(one: Evictable, address: str) -> tuple[int, bool]:
    return one.item.priority, one.address != address
