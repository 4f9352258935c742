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


_Heap = list[tuple[float, int, Item]]
"""Items of one user, the earliest deadline first, then by arrival; those that have gone, or had
another deadline, among them."""


class _Class:
    def __init__(self, place: Place, tier: Tier) -> None:
        self._place = place
        self.requests = 0
        self.gone = 0
        """Items in it that are not here any more, at most."""
        self._arrived: deque[Item] = deque()
        self._flows = _Children(tier.shares)
        self._items: dict[str, dict[str, _Heap]] = {}
        """By flow and user."""
        self._users: dict[str, _Children] = {}
        """Of flows of which more than one user was here."""

    def add(self, item: Item, tier: Tier) -> None:
        self.requests += 1
        self._arrived.append(item)
        heaps = self._items.get(item.flow)
        if heaps is None:
            heaps = self._items[item.flow] = {}
            self._flows.add(item.flow)
        if item.user not in heaps:
            heaps[item.user] = []
            if (users := self._users.get(item.flow)) is not None:
                users.add(item.user)
        self.put(item)

    def put(self, item: Item) -> None:
        """By its deadline; where it had another one it is skipped."""
        heap = self._items[item.flow][item.user]
        heapq.heappush(heap, (item.due_s, item.order, item))

    def has(self, item: Item) -> bool:
        return item.waits and item.place == self._place

    def all(self) -> Iterator[Item]:
        """Each once, by arrival; those that are gone among them."""
        return iter(dict.fromkeys(self._arrived))

    def first(self, tier: Tier) -> Item | None:
        while (flow := self._flows.first()) is not None:
            heaps = self._items[flow]
            if len(heaps) == 1:
                (heap,) = heaps.values()
                item = self._top(heap)
            else:
                item = self._of_users(flow, heaps, tier)
            if item is not None:
                return item
            del self._items[flow]
            self._users.pop(flow, None)
            self._flows.drop(flow)
        return None

    def _of_users(self, flow: str, heaps: dict[str, _Heap], tier: Tier) -> Item | None:
        if not tier.has(flow):
            return None
        shares, users = tier.users(flow), self._users.get(flow)
        if users is None or users.shares is not shares:  # the flow had nothing waiting for a while
            users = self._users[flow] = _Children(shares)
            for user in heaps:
                users.add(user)
        while (user_ := users.first()) is not None:
            if (item := self._top(heaps[user_])) is not None:
                return item
            del heaps[user_]
            users.drop(user_)
        return None

    def _top(self, heap: _Heap) -> Item | None:
        while heap:
            due_s, _, item = heap[0]
            if item.waits and due_s == item.due_s and item.place == self._place:
                return item
            heapq.heappop(heap)
        return None


class _Children:
    """Those of the children of some shares that are here, by their tags."""

    def __init__(self, shares: Counters) -> None:
        self.shares = shares
        self._heap: list[tuple[float, str]] = []
        self._tags: dict[str, float] = {}
        """As they are in the heap; other ones there are old."""
        self._lowerings = shares.lowerings

    def add(self, child: str) -> None:
        self._push(child, self.shares.tag(child))

    def first(self) -> str | None:
        """The one with the least tag. A tag that has grown is put right when it comes up."""
        shares = self.shares
        if self._lowerings != shares.lowerings:
            self._lower()
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

    def _lower(self) -> None:
        """Put the tags right that have become less: of all that are here, or of those that have,
        whichever are fewer."""
        shares, since, tags = self.shares, self._lowerings, self._tags
        self._lowerings = shares.lowerings
        few = self._lowerings - since < len(tags)
        lowered = shares.lowered(since) if few else None
        for child in [*tags] if lowered is None else lowered:
            if child in tags and (now := shares.tag(child)) < tags[child]:
                self._push(child, now)

    def _push(self, child: str, tag: float) -> None:
        self._tags[child] = tag
        heapq.heappush(self._heap, (tag, child))
