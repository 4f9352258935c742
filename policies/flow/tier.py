"""One class of a queue: who has how much waiting in it, and whose turn it is."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from policies.flow.depth import Depth
from policies.flow.digest import FlowRow
from policies.flow.item import Item
from policies.flow.order import Counters, Order

_TIDY_AT: Final = 64


class Tier:
    """Flows by their share, and in a flow users by theirs, over all places where they wait. Who
    calls sets `Item.waits` false before `remove`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.depth = Depth()
        self.owed = 0.0
        """Cost that it is to be given before the classes above it, because it has waited for long;
        under 0 what it has got too much."""
        self.shares = order.counters()
        """Of flows."""
        self._flows: dict[str, _Flow] = {}
        self._arrived: deque[Item] = deque()
        self._greedy: list[tuple[float, str]] = []
        """Flows by what they had waiting by weight when it last grew, the most first."""
        self._weight = 0.0
        """Of all flows that have something waiting, here or elsewhere."""
        self.elsewhere = Depth()
        """Of what waits at other pickers."""
        self._elsewhere: dict[str, _Elsewhere] = {}

    def has(self, flow: str) -> bool:
        """The flow has something waiting here."""
        return flow in self._flows

    def depth_of(self, flow: str) -> tuple[Depth, float]:
        """What a flow has waiting here, and its weight."""
        found = self._flows.get(flow)
        return (_NOTHING, 1.0) if found is None else (found.depth, found.weight)

    def users(self, flow: str) -> Counters:
        """The users of a flow that has something waiting."""
        return self._flows[flow].divided()

    def add(self, item: Item) -> None:
        """An item waits from now on."""
        self._weight -= self._weight_of(item.flow)
        flow = self._flows.get(item.flow)
        if flow is None:
            flow = self._flows[item.flow] = _Flow(self._order)
        flow.add(item)
        self._weight += flow.weight
        self.depth.more(item)
        self.shares.join(item.flow)
        self._arrived.append(item)
        self._rate_greed(item.flow, flow)

    def remove(self, item: Item) -> None:
        """An item waits no longer."""
        flow = self._flows[item.flow]
        flow.remove(item)
        self.depth.less(item)
        self.shares.leave(item.flow)
        if not self.depth.requests:
            self.owed = 0.0
        if not flow.depth.requests:
            self._weight -= flow.weight
            del self._flows[item.flow]
            self._reweigh(item.flow)
        self._arrived = _without_gone(self._arrived, self.depth.requests)

    def charge(self, item: Item) -> None:
        """The item's flow and user are given it."""
        item.price = self._order.price(item)
        self.shares.charge(item.flow, item.price)
        flow = self._flows.get(item.flow)
        if flow is not None and flow.users is not None and len(flow.users) > 1:
            flow.users.charge(item.user, item.price)
            item.divided = True

    def more_elsewhere(self, row: FlowRow) -> None:
        """Another picker has so much waiting of a flow."""
        self._weight -= self._weight_of(row.flow)
        found = self._elsewhere.get(row.flow)
        if found is None:
            found = self._elsewhere[row.flow] = _Elsewhere(Depth())
            self.shares.join(row.flow)
        found.weight, found.pickers = row.weight, found.pickers + 1
        for depth in (found.depth, self.elsewhere):
            depth.add(row.requests, row.tokens, row.cost)
        self._reweigh(row.flow)

    def less_elsewhere(self, row: FlowRow) -> None:
        """It has it no longer: see `more_elsewhere`."""
        self._weight -= self._weight_of(row.flow)
        found = self._elsewhere[row.flow]
        found.pickers -= 1
        for depth in (found.depth, self.elsewhere):
            depth.add(-row.requests, -row.tokens, -row.cost)
        if not found.pickers:
            del self._elsewhere[row.flow]
            self.shares.leave(row.flow)
        self._reweigh(row.flow)

    def waiting_anywhere(self) -> Iterator[str]:
        """Flows that have something waiting, here or elsewhere."""
        yield from self._flows
        yield from (flow for flow in self._elsewhere if flow not in self._flows)

    def part_here(self) -> float:
        """Which part of all that waits in the class waits here, 0 to 1."""
        whole = self.depth.cost + self.elsewhere.cost
        return self.depth.cost / whole if whole > 0 else 1.0

    def correct(self, item: Item) -> float:
        """It is known what an item has cost that was charged: gives how much more."""
        price = self._order.price(item)
        more, item.price = price - item.price, price
        self.shares.correct(item.flow, more)
        flow = self._flows.get(item.flow) if item.divided else None
        if flow is not None and flow.users is not None:
            flow.users.correct(item.user, more)
        return more

    def oldest_s(self, flow: str | None = None) -> float:
        """Arrival of the item, of one flow or of all, that has waited longest; infinite: none
        waits."""
        if flow is not None:
            return self._flows[flow].oldest_s() if flow in self._flows else inf
        return self._arrived[0].arrived_s if self._arrived else inf

    def next(self) -> Item | None:
        """The oldest item of the flow that goes next; None: nothing of it waits here."""
        name = self.shares.next()
        flow = None if name is None else self._flows.get(name)
        return None if flow is None else flow.oldest()

    def greediest(self) -> Item:
        """The newest item of the flow that has most waiting by its weight; some item waits."""
        while True:
            had, name = self._greedy[0]
            flow = self._flows.get(name)
            if flow is not None and -had <= flow.greed:
                return flow.newest()
            heapq.heappop(self._greedy)
            if flow is not None:  # it has less by now
                self._rate_greed(name, flow)

    def greediest_anywhere(self) -> tuple[str, Depth]:
        """The flow that has most waiting by its weight, here and elsewhere, and how much; something
        waits somewhere."""
        most = ("", Depth(), -1.0)
        for name in self.waiting_anywhere():
            whole = Depth()
            for found in (self._flows.get(name), self._elsewhere.get(name)):
                if found is not None:
                    whole.add(found.depth.requests, found.depth.tokens, found.depth.cost)
            greed = whole.tokens / self._weight_of(name)
            if greed > most[2]:
                most = (name, whole, greed)
        return most[0], most[1]

    def newest(self, flow: str) -> Item:
        """The item of a flow that came last; it has something waiting here."""
        return self._flows[flow].newest()

    def ahead_cost(self, item: Item) -> float:
        """Cost of what will be given before an item that comes now, here and elsewhere; an upper
        bound: while the flow works off what it has, each other flow gets as much by weight, or all
        that it has."""
        flow, elsewhere = self._flows.get(item.flow), self._elsewhere.get(item.flow)
        has = 0.0 if flow is None else flow.depth.cost
        has += 0.0 if elsewhere is None else elsewhere.depth.cost
        behind = (has + item.cost) / item.weight + self.shares.ahead(item.flow)
        others = self._weight - self._weight_of(item.flow)
        return min(self.depth.cost + self.elsewhere.cost, has + behind * others)

    def depths(self) -> dict[str, Depth]:
        """By flow."""
        return {name: flow.depth for name, flow in self._flows.items()}

    def _weight_of(self, flow: str) -> float:
        found = self._flows.get(flow) or self._elsewhere.get(flow)
        return 0.0 if found is None else found.weight

    def _reweigh(self, flow: str) -> None:
        """The flow's weight was taken off: put on what it has by now."""
        if self._flows or self._elsewhere:
            self._weight += self._weight_of(flow)
        else:
            self._weight = 0.0  # no remainder of rounding

    def _rate_greed(self, name: str, flow: _Flow) -> None:
        heapq.heappush(self._greedy, (-flow.greed, name))
        if len(self._greedy) > _TIDY_AT + 4 * len(self._flows):
            self._greedy = [(-held.greed, one) for one, held in self._flows.items()]
            heapq.heapify(self._greedy)


@dataclass(slots=True)
class _Elsewhere:
    """What a flow has waiting at other pickers."""

    depth: Depth
    weight: float = 1.0
    pickers: int = 0


_NOTHING: Final = Depth()


class _Flow:
    def __init__(self, order: Order) -> None:
        self.depth = Depth()
        self.weight = 1.0
        """Of the item that came last."""
        self.users: Counters | None = None
        """None: there was only one so far. Most flows have no others."""
        self._order = order
        self._only = ""
        self._arrived: deque[Item] = deque()

    @property
    def greed(self) -> float:
        return self.depth.tokens / self.weight

    def add(self, item: Item) -> None:
        self.weight = item.weight
        if self.users is not None:
            self.users.join(item.user)
        elif not self.depth.requests:
            self._only = item.user
        elif item.user != self._only:
            self.divided().join(item.user)
        self.depth.more(item)
        self._arrived.append(item)

    def remove(self, item: Item) -> None:
        self.depth.less(item)
        if self.users is not None:
            self.users.leave(item.user)
        self._arrived = _without_gone(self._arrived, self.depth.requests)

    def divided(self) -> Counters:
        """Its users, of whom each gets a share."""
        if self.users is None:
            self.users = self._order.counters()
            for _ in range(self.depth.requests):
                self.users.join(self._only)
        return self.users

    def oldest(self) -> Item:
        return self._arrived[0]

    def oldest_s(self) -> float:
        return self.oldest().arrived_s

    def newest(self) -> Item:
        while not self._arrived[-1].waits:
            self._arrived.pop()
        return self._arrived[-1]


def _without_gone(items: deque[Item], waiting: int) -> deque[Item]:
    """In order of arrival, the first of them one that waits."""
    while items and not items[0].waits:
        items.popleft()
    if len(items) > _TIDY_AT + 2 * waiting:
        return deque(item for item in items if item.waits)
    return items
