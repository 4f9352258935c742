"""What waits in one place, and which of it goes next."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

from policies.flow.depth import Depth
from policies.flow.item import Item, Place
from policies.flow.order import Counters
from policies.flow.tier import Tier

_TIDY_AT: Final = 64


class Shelf:
    """The items that wait for one place. Whose turn it is, is a matter of the whole queue: see
    `Tier`."""

    def __init__(self, place: Place, tiers: Mapping[int, Tier]) -> None:
        self.depth = Depth()
        self._place = place
        self._tiers = tiers
        self._classes: dict[int, _Class] = {}

    def add(self, item: Item) -> None:
        """An item waits here."""
        found, tier = self._classes.get(item.priority), self._tiers[item.priority]
        if found is None:
            found = self._classes[item.priority] = _Class(self._place, tier)
        found.add(item, tier)
        self.depth.more(item)

    def remove(self, item: Item) -> None:
        """An item waits here no longer, which it says itself: it is skipped when its turn comes."""
        self.depth.less(item)
        found = self._classes[item.priority]
        found.requests -= 1
        found.gone += 1
        if not found.requests:
            del self._classes[item.priority]
        elif found.gone > _TIDY_AT + 2 * found.requests:
            tier = self._tiers[item.priority]
            tidy = self._classes[item.priority] = _Class(self._place, tier)
            for one in found.all():
                if found.has(one):
                    tidy.add(one, tier)

    def put_off(self, item: Item) -> None:
        """An item that waits here has another deadline by now."""
        self._classes[item.priority].put(item)

    def first(self) -> Item | None:
        """The item that goes next: of the highest class, unless one below it has something owed;
        None: nothing waits."""
        if not self._classes:
            return None
        priority = max(self._classes)
        if len(self._classes) > 1:
            owed = [one for one in self._classes if self._tiers[one].owed > 0]
            priority = min(owed, default=priority)
        return self._classes[priority].first(self._tiers[priority])


class _Class:
    def __init__(self, place: Place, tier: Tier) -> None:
        self._place = place
        self.requests = 0
        self.gone = 0
        """Items in it that are not here any more, at most."""
        self._arrived: deque[Item] = deque()
        self._flows = _Children(tier.shares)
        self._users: dict[str, _Children] = {}
        self._items: dict[tuple[str, str], list[tuple[float, int, Item]]] = {}
        """By flow and user, the earliest deadline first, then by arrival."""

    def add(self, item: Item, tier: Tier) -> None:
        self.requests += 1
        self._arrived.append(item)
        heap = self._items.get((item.flow, item.user))
        if heap is None:
            heap = self._items[item.flow, item.user] = []
            users = self._users.get(item.flow)
            if users is None:
                users = self._users[item.flow] = _Children(tier.users(item.flow))
                self._flows.add(item.flow, tier.shares)
            users.add(item.user, tier.users(item.flow))
        self.put(item)

    def put(self, item: Item) -> None:
        """By its deadline; where it had another one it is skipped."""
        heap = self._items[item.flow, item.user]
        heapq.heappush(heap, (item.due_s, item.order, item))

    def has(self, item: Item) -> bool:
        return item.waits and item.place == self._place

    def all(self) -> Iterator[Item]:
        """Each once, by arrival; those that are gone among them."""
        return iter(dict.fromkeys(self._arrived))

    def first(self, tier: Tier) -> Item | None:
        while (flow := self._flows.first(tier.shares)) is not None:
            users = self._users[flow]
            while flow in tier.shares and (user := users.first(tier.users(flow))) is not None:
                heap = self._items[flow, user]
                while heap and not (self.has(heap[0][2]) and heap[0][0] == heap[0][2].due_s):
                    heapq.heappop(heap)
                if heap:
                    return heap[0][2]
                del self._items[flow, user]
                users.drop(user)
            for user in users:
                del self._items[flow, user]
            del self._users[flow]
            self._flows.drop(flow)
        return None


class _Children:
    """Those of the children of some shares that are here, by their tags."""

    def __init__(self, shares: Counters) -> None:
        self._heap: list[tuple[float, str]] = []
        self._tags: dict[str, float] = {}
        """As they are in the heap; other ones there are old."""
        self._lowerings = shares.lowerings

    def __iter__(self) -> Iterator[str]:
        return iter(self._tags)

    def add(self, child: str, shares: Counters) -> None:
        self._push(child, shares.tag(child))

    def first(self, shares: Counters) -> str | None:
        """The one with the least tag. A tag that has grown is put right when it comes up."""
        if self._lowerings != shares.lowerings:
            self._lower(shares)
        heap, tags = self._heap, self._tags
        while heap:
            tag, child = heap[0]
            if tags.get(child) != tag:
                heapq.heappop(heap)
                continue
            now = shares.tag(child)
            if now <= tag:
                return child
            tags[child] = now
            heapq.heapreplace(heap, (now, child))
        return None

    def drop(self, child: str) -> None:
        del self._tags[child]

    def _lower(self, shares: Counters) -> None:
        lowered = shares.lowered(self._lowerings)
        for child in self if lowered is None else lowered:
            if child in self._tags and (now := shares.tag(child)) < self._tags[child]:
                self._push(child, now)
        self._lowerings = shares.lowerings

    def _push(self, child: str, tag: float) -> None:
        self._tags[child] = tag
        heapq.heappush(self._heap, (tag, child))
