"""The queue of one pool: classes by priority, in a class flows by their share, in a flow users by
theirs, and a user's items by deadline and arrival. Items wait in places, one for each endpoint."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterator
from math import inf

from policies.flow.depth import Depth
from policies.flow.fair import Fair
from policies.flow.item import Item, Place
from policies.flow.order import Order
from policies.flow.reporting import Reporting
from policies.flow.rivals import Turn
from policies.flow.rules import DEFAULT_FLOW, FlowRules
from policies.flow.shelf import Shelf
from policies.flow.tier import Tier


class FlowQueue:
    """Items wait in it until `take` gives them out. Times are seconds of the caller's clock."""

    def __init__(self, rules: FlowRules = DEFAULT_FLOW, order: Order | None = None) -> None:
        """``order``: `Fair`, when it is left out."""
        self.rules = rules
        self.order = Fair() if order is None else order
        self.depth = Depth()
        """Of all that waits."""
        self.reporting: Reporting | None = None
        """What others are to know of it; None: there are no others."""
        self._tiers: dict[int, Tier] = {}
        self._priorities: list[int] = []
        """Priorities, the lowest first."""
        self._shelves: dict[Place, Shelf] = {}
        self._by_slot: dict[int, dict[Place, None]] = {}
        self._items: dict[str, Item] = {}
        self._expiry: list[tuple[float, int, Item]] = []
        self._due: list[tuple[float, int, Item]] = []
        self._count = 0
        self._carry = 0.0
        """What is still to be turned away, of less than a request: see `overflow`."""

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._items

    # -- coming and going

    def offer(self, item: Item, place: Place) -> list[Item]:
        """Let an item wait. Gives those that have no place any more, perhaps itself among them:
        when its class or the queue is full the newest item leaves of the flow that asks for most by
        its weight, in that class, or in the lowest that has anything. Raises ValueError for an id
        that waits already."""
        if item.id in self._items:
            raise ValueError(f"{item.id!r} waits already")
        self._count += 1
        item.order, item.waits, item.place = self._count, True, place
        self._items[item.id] = item
        if item.expires_s < inf:
            heapq.heappush(self._expiry, (item.expires_s, item.order, item))
            if len(self._expiry) > 1024 + 4 * len(self._items):
                self._expiry = [entry for entry in self._expiry if entry[2].waits]
                heapq.heapify(self._expiry)
        if item.due_s < inf:
            heapq.heappush(self._due, (item.due_s, item.order, item))
            if len(self._due) > 1024 + 4 * len(self._items):
                self._due = [entry for entry in self._due if entry[2].waits]
                heapq.heapify(self._due)
        self.depth.more(item)
        self._tier(item.priority).add(item)
        self._shelf(place).add(item)
        if self.reporting is not None:
            self.reporting.waits(item.priority, item.flow)
            self.reporting.came(item.priority, item.cost)
        return [*self._class_overflow(item.priority), *self._overflow()]

    def move(self, item: Item, place: Place) -> None:
        """An item waits in another place from now on."""
        before = item.place
        if item.waits and before != place:
            item.place = place  # at once: a shelf that tidies up asks where its items are
            self._off_shelf(item, before)
            self._shelf(place).add(item)

    def cancel(self, id_: str) -> Item | None:
        """An item is not to wait any longer; None when it does not wait."""
        item = self._items.get(id_)
        if item is not None:
            self._remove(item)
        return item

    def expired(self, now_s: float) -> list[Item]:
        """Those that have waited for too long; they wait no longer."""
        gone: list[Item] = []
        while self._expiry and self._expiry[0][0] <= now_s:
            item = heapq.heappop(self._expiry)[2]
            if item.waits:
                self._remove(item)
                gone.append(item)
        return gone

    def next_expiry_s(self) -> float:
        """When the next item will have waited for too long; infinite: never."""
        while self._expiry and not self._expiry[0][2].waits:
            heapq.heappop(self._expiry)
        return self._expiry[0][0] if self._expiry else inf

    def miss(self, until_s: float) -> None:
        """Deadlines until then cannot be met any more. Their items go by arrival from now on, as
        others without a deadline, after those that can be in time: or else, when more comes than
        can be served, everybody would be a little late."""
        while self._due and self._due[0][0] <= until_s:
            item = heapq.heappop(self._due)[2]
            if item.waits:
                item.due_s = inf
                self._shelves[item.place].put_off(item)

    # -- being served

    def first(self, place: Place) -> Item | None:
        """The item that goes next in a place; None: nothing waits there."""
        shelf = self._shelves.get(place)
        return None if shelf is None else shelf.first()

    def next(self) -> Item | None:
        """Of the highest class the oldest item of the flow that goes next, wherever it waits; None:
        nothing waits."""
        for priority in reversed(self._priorities):
            if (item := self._tiers[priority].next()) is not None:
                return item
        return None

    def firsts(self, slot: int) -> list[Item]:
        """The item that goes next in each place of a slot, the one before the others first."""
        places = self._by_slot.get(slot)
        if not places:
            return []
        found = [item for item in map(self.first, places) if item is not None]
        if len(found) > 1:
            found.sort(key=self._turn)
        return found

    def take(self, item: Item, now_s: float, cost: float | None = None) -> None:
        """An item is served: it is charged to its flow and user, and waits no longer. Classes below
        it that have waited for long are owed a share of it. ``cost``: as expected by now, when it
        is not as it was."""
        item.spent = item.cost if cost is None else cost
        tier = self._tiers[item.priority]
        tier.charge(item)
        tier.owed = tier.owed - item.cost if tier.owed > 0 else tier.owed
        self._owe(item.priority, item.cost, now_s)
        if self.reporting is not None:
            self.reporting.served(item.priority, item.flow, item.price)
            self.reporting.given(item.priority, item.cost)
        item.charged = True
        self._remove(item)

    def settle(
        self, item: Item, cost: float, *, prompt_tokens: float = 0.0, output_tokens: float = 0.0
    ) -> None:
        """What an item that was taken has really cost; others cost nothing."""
        if not item.charged:
            return
        item.spent, item.prompt_tokens, item.output_tokens = cost, prompt_tokens, output_tokens
        if (tier := self._tiers.get(item.priority)) is not None:
            more = tier.correct(item)
            if self.reporting is not None and more:
                self.reporting.served(item.priority, item.flow, more)

    # -- what it holds

    def places(self) -> dict[Place, Depth]:
        """Places in which something waits, and how much."""
        return {place: shelf.depth for place, shelf in self._shelves.items()}

    def classes(self) -> list[int]:
        """Those in which something waits, the highest first."""
        return [one for one in reversed(self._priorities) if self._tiers[one].depth.requests]

    def flows(self, priority: int) -> dict[str, Depth]:
        """Those of a class that have something waiting, and how much."""
        tier = self._tiers.get(priority)
        return {} if tier is None else tier.depths()

    def oldest_s(self, priority: int, flow: str | None = None) -> float:
        """Arrival of the item of a class, or of one flow in it, that has waited longest; infinite:
        there is none."""
        tier = self._tiers.get(priority)
        return inf if tier is None else tier.oldest_s(flow)

    def gap(self, priority: int) -> float:
        """By how much the service of flows of a class differs that have something waiting: cost by
        weight, at most."""
        tier = self._tiers.get(priority)
        return 0.0 if tier is None else tier.shares.gap()

    def ahead_cost(self, item: Item) -> float:
        """Cost of what will be given before the item, if it is offered now, at most: what waits in
        higher classes, and of its own what its share lets pass."""
        cost = sum(
            tier.depth.cost + tier.elsewhere.cost
            for priority, tier in self._tiers.items()
            if priority > item.priority
        )
        own = self._tiers.get(item.priority)
        return cost + (0.0 if own is None else own.ahead_cost(item))

    # -- other pickers

    def overflow(self) -> list[Item]:
        """Those that have no place any more for what waits here and at other pickers: of the flow
        that asks for most by its weight, in the lowest class that has anything anywhere. Each
        picker turns away as large a part of what is too much as it has of that flow."""
        if not any(tier.elsewhere.requests for tier in self._tiers.values()):
            return []
        requests, tokens = self._too_much()
        if requests <= 0 and tokens <= 0:
            self._carry = 0.0
            return []
        lowest = (self._tiers[one] for one in self._priorities)
        tier = next(one for one in lowest if one.depth.requests + one.elsewhere.requests)
        flow, whole = tier.greediest_anywhere()
        here = tier.depth_of(flow)[0].requests
        part = max(requests / whole.requests, tokens / whole.tokens if whole.tokens > 0 else 0.0)
        self._carry += here * min(1.0, part)
        gone: list[Item] = []
        while here and self._carry >= 1.0:
            item = tier.newest(flow)
            self._remove(item)
            gone.append(item)
            here, self._carry = here - 1, self._carry - 1.0
        return gone

    def given_elsewhere(self, priority: int, cost: float, now_s: float) -> None:
        """Other pickers have let so much of a class go."""
        self._owe(priority, cost, now_s)

    def tier(self, priority: int) -> Tier:
        """The class of a priority."""
        return self._tier(priority)

    def tiers(self) -> Iterator[tuple[int, Tier]]:
        """Priorities and classes."""
        return iter(self._tiers.items())

    def turn(self, item: Item) -> Turn:
        """When it is the turn of an item that waits: see `Turn`."""
        tier = self._tiers[item.priority]
        return tier.owed <= 0, -item.priority, tier.shares.tag(item.flow), item.arrived_s

    # -- inside

    def _owe(self, given: int, cost: float, now_s: float) -> None:
        """A class was given so much: those below it that have waited for long are owed a share."""
        owed = self.order.owed
        for priority in self._priorities:
            if priority >= given:
                break
            below = self._tiers[priority]
            alike = (priority < 0) == (given < 0)
            if alike and below.oldest_s() < now_s - self.rules.aging_s:
                below.owed += owed * cost * below.part_here()

    def _turn(self, item: Item) -> tuple[int, float, int]:
        return -item.priority, self._tiers[item.priority].shares.tag(item.flow), item.order

    def _tier(self, priority: int) -> Tier:
        found = self._tiers.get(priority)
        if found is None:
            found = self._tiers[priority] = Tier(self.order)
            insort(self._priorities, priority)
        return found

    def _shelf(self, place: Place) -> Shelf:
        found = self._shelves.get(place)
        if found is None:
            found = self._shelves[place] = Shelf(place, self._tiers)
            self._by_slot.setdefault(place[0], {})[place] = None
        return found

    def _class_overflow(self, priority: int) -> Iterator[Item]:
        bounds = self.rules.classes.get(priority)
        if bounds is None:
            return
        tier = self._tiers[priority]
        depth = tier.depth
        while depth.requests > bounds.max_requests or depth.tokens > bounds.max_tokens:
            yield self._lose(tier)

    def _overflow(self) -> Iterator[Item]:
        rules, depth = self.rules, self.depth
        while depth.requests > rules.max_requests or depth.tokens > rules.max_tokens:
            lowest = next(one for one in self._priorities if self._tiers[one].depth.requests)
            yield self._lose(self._tiers[lowest])

    def _too_much(self) -> tuple[int, float]:
        """Requests and tokens above the bounds, of all that waits here and elsewhere."""
        elsewhere = [tier.elsewhere for tier in self._tiers.values()]
        requests = self.depth.requests + sum(depth.requests for depth in elsewhere)
        tokens = self.depth.tokens + sum(depth.tokens for depth in elsewhere)
        return requests - self.rules.max_requests, tokens - self.rules.max_tokens

    def _lose(self, tier: Tier) -> Item:
        item = tier.greediest()
        self._remove(item)
        return item

    def _remove(self, item: Item) -> None:
        if self.reporting is not None:
            self.reporting.waits(item.priority, item.flow)
        item.waits = False
        del self._items[item.id]
        self.depth.less(item)
        self._tiers[item.priority].remove(item)
        self._off_shelf(item, item.place)

    def _off_shelf(self, item: Item, place: Place) -> None:
        shelf = self._shelves[place]
        shelf.remove(item)
        if not shelf.depth.requests:
            del self._shelves[place]
            del self._by_slot[place[0]][place]
