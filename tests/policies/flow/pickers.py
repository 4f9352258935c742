"""Several pickers that share queues, endpoints with so many places each, and a clock."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from math import inf

from policies.flow.digest import HeadRow
from policies.flow.item import Item
from policies.flow.queue import FlowQueue
from policies.flow.rivals import Before
from policies.flow.rules import DEFAULT_FLOW, FlowRules
from policies.flow.shared import SharedQueue

INTERVAL_S = 0.02


class Picker:
    """One of them: what it knows is its own, and what it was told."""

    def __init__(self, name: str, cluster: Cluster, rules: FlowRules) -> None:
        self.name, self.cluster = name, cluster
        self.queue = FlowQueue(rules)
        self.shared = SharedQueue(name, self.queue, INTERVAL_S)
        self.own: dict[int, int] = defaultdict(int)
        """In flight, by endpoint."""
        self.told: dict[str, dict[int, int]] = {}
        """The same of others."""
        self.dead = False
        self.stuck = False
        """It lives, and lets nothing go."""
        self._flush_s = inf
        self._alarm_s = inf
        self._bounded_s = -inf

    def offer(self, item: Item, endpoint: int) -> None:
        self.cluster.turned_away += self.queue.offer(item, (endpoint, ""))
        self.bound()
        self.look()
        self.soon()

    def look(self) -> None:
        """Let go what there is room for."""
        if self.dead or self.stuck:
            return
        for endpoint in self.cluster.endpoints:
            while self._serve(endpoint):
                pass
        self._invite()
        if self.queue.depth.requests:
            self._alarm(self.shared.next_s(self.cluster.now_s))

    def bound(self) -> None:
        """Turn away what is too much, once within an interval."""
        if self.cluster.now_s >= self._bounded_s + INTERVAL_S:
            self._bounded_s = self.cluster.now_s
            if gone := self.queue.overflow():
                self.cluster.turned_away += gone
                self.soon()

    def soon(self) -> None:
        """What has changed is reported within the interval."""
        if self._flush_s == inf:
            self._flush_s = self.cluster.now_s + self.cluster.rng.uniform(0.1, 0.9) * INTERVAL_S
            self.cluster.at(self._flush_s, self._flush)

    def heads(self) -> list[HeadRow]:
        rows = []
        for endpoint in self.cluster.endpoints:
            first = self.queue.first((endpoint, ""))
            if first is None:
                rows.append(HeadRow(endpoint, 0, 0.0, claims=False))
                continue
            depth = self.queue.places()[endpoint, ""]
            owed, _, _, arrived_s = self.queue.turn(first)
            rows.append(
                HeadRow(
                    endpoint=endpoint,
                    requests=depth.requests,
                    prefill_tokens=depth.tokens,
                    claims=True,
                    priority=first.priority,
                    flow=first.flow,
                    owed=not owed,
                    arrived_s=arrived_s,
                    tokens=first.tokens,
                )
            )
        return rows

    def whole(self) -> None:
        """Everything is reported to all."""
        for digest in self.shared.whole(self.heads(), self.cluster.now_s):
            self.cluster.send(self, digest, dict(self.own))

    def _flush(self) -> None:
        self._flush_s = inf
        if not self.dead:
            digest = self.shared.digest(self.heads(), self.cluster.now_s)
            self.cluster.send(self, digest, dict(self.own))

    def _begins(self, endpoint: int, before: Before) -> bool:
        has = self.own[endpoint] + sum(told.get(endpoint, 0) for told in self.told.values())
        return has + before.requests < self.cluster.places

    def _serve(self, endpoint: int) -> bool:
        item = self.queue.first((endpoint, ""))
        if item is None or not self.shared.goes(
            endpoint, item, self.cluster.now_s, lambda before: self._begins(endpoint, before)
        ):
            return False
        self.queue.take(item, self.cluster.now_s)
        self.shared.sent(endpoint, item.tokens, self.cluster.now_s)
        self.own[endpoint] += 1
        self.cluster.begin(self, item, endpoint)
        self.soon()
        return True

    def _invite(self) -> None:
        for endpoint in self.cluster.endpoints:
            while self.queue.first((endpoint, "")) is None and self._begins(endpoint, Before()):
                places = self.queue.places()
                if not places:
                    return
                longest = max(places, key=lambda place: places[place].cost)
                item = self.queue.first(longest)
                assert item is not None
                self.queue.move(item, (endpoint, ""))
                self.soon()
                if not self._serve(endpoint):
                    break

    def _alarm(self, at_s: float) -> None:
        if at_s < inf and (at_s < self._alarm_s or self._alarm_s <= self.cluster.now_s):
            self._alarm_s = at_s
            self.cluster.at(at_s + 1e-6, self.look)


class Cluster:
    """Time goes on by `run`. What was served is known to all, for the tests alone."""

    def __init__(
        self,
        pickers: int,
        endpoints: int = 2,
        places: int = 4,
        *,
        seed: int = 1,
        loss: float = 0.0,
        rules: FlowRules = DEFAULT_FLOW,
        speed: float = 1000.0,
    ) -> None:
        self.now_s = 0.0
        self.rng = random.Random(seed)
        self.endpoints, self.places = range(endpoints), places
        self.loss, self.speed = loss, speed
        self.pickers = [Picker(f"{i:02}", self, rules) for i in range(pickers)]
        self.running: dict[int, int] = defaultdict(int)
        self.most = 0
        """Requests that ran at one endpoint at a time, at most."""
        self.served: dict[str, float] = defaultdict(float)
        """Price by flow."""
        self.begun: list[tuple[float, Item]] = []
        self.turned_away: list[Item] = []
        self.idle_s = 0.0
        """Longest time that an endpoint had a free place while something waited anywhere."""
        self.worked: Callable[[Picker, Item], None] = lambda picker, item: None
        self._free_since: dict[int, float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()
        self.at(0.0, self._beat)

    def at(self, at_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._count), act))

    def send(self, picker: Picker, digest: object, loads: dict[int, int]) -> None:
        for other in self.pickers:
            if other is not picker and not other.dead and self.rng.random() >= self.loss:
                other.told[picker.name] = loads
                other.shared.hear(picker.name, digest, self.now_s)  # type: ignore[arg-type]
                other.bound()
                other.look()

    def begin(self, picker: Picker, item: Item, endpoint: int) -> None:
        self.running[endpoint] += 1
        self.most = max(self.most, self.running[endpoint])
        self.served[item.flow] += item.price
        self.begun.append((self.now_s, item))
        self.at(self.now_s + item.cost / self.speed, lambda: self._end(picker, item, endpoint))

    def kill(self, picker: Picker) -> None:
        """It is gone, and everybody is told so; what it had sent runs to its end."""
        picker.dead = True
        for other in self.pickers:
            other.shared.lapse(picker.name)

    def run(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, act = heapq.heappop(self._events)
            act()
            self._note_idle()
        self.now_s = until_s

    @property
    def waiting(self) -> int:
        return sum(len(one.queue) for one in self.pickers if not one.dead)

    def _end(self, picker: Picker, item: Item, endpoint: int) -> None:
        self.running[endpoint] -= 1
        picker.own[endpoint] -= 1
        picker.soon()
        if picker.dead:
            for other in self.pickers:
                if picker.name in other.told:
                    other.told[picker.name][endpoint] -= 1
        self.worked(picker, item)
        picker.look()

    def _beat(self) -> None:
        """Once a second each reports everything."""
        for one in self.pickers:
            if not one.dead:
                one.whole()
        self.at(self.now_s + 1.0, self._beat)

    def _note_idle(self) -> None:
        for endpoint in self.endpoints:
            if self.waiting and self.running[endpoint] < self.places:
                since_s = self._free_since.setdefault(endpoint, self.now_s)
                self.idle_s = max(self.idle_s, self.now_s - since_s)
            else:
                self._free_since.pop(endpoint, None)
