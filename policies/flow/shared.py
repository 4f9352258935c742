"""One queue of several: what waits for a pool in several pickers goes in one order, as far as each
knows of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from policies.flow.digest import HeadRow, Level, QueueDigest, part_of
from policies.flow.elsewhere import Elsewhere, Heard
from policies.flow.item import Item
from policies.flow.queue import FlowQueue
from policies.flow.reporting import FlowKey, Reporting, Waiting, part_of_flow
from policies.flow.rivals import NOBODY, Before, Rivals
from policies.flow.turns import BUSY_S, Turns

_FLOWS_A_PART: Final = 256
_PARTS: Final = 256


class SharedQueue:
    """Of one picker, which is known to the others by its ``name``. Knows nothing of how reports get
    from one to the other, but that it takes ``interval_s`` or less while all is well.

    Service and what waits are shared, so tags of flows mean the same everywhere, but for what
    was served within an interval. They drift apart a little with each flow that comes back, which
    starts where its picker believes the least served is; so all take over the levels of the picker
    with the least name.
    """

    def __init__(self, name: str, queue: FlowQueue, interval_s: float, now_s: float = 0.0) -> None:
        """``now_s`` of a clock that goes on when the picker begins to share anew."""
        self.queue = queue
        self._name = name
        self._interval_s = interval_s
        self._reporting = queue.reporting = Reporting(round(1000 * now_s))
        self._elsewhere = Elsewhere(queue.tier)
        self._rivals = Rivals(name, lambda priority, flow: queue.tier(priority).shares.tag(flow))
        self._turns = Turns()
        self._part = 0
        self._reported: dict[int, HeadRow] = {}
        """By endpoint."""

    # -- what others are to know

    @property
    def interval_s(self) -> float:
        """In which what has changed here is known to all, and the other way round."""
        return max(self._interval_s, self._elsewhere.interval_s)

    @property
    def is_changed(self) -> bool:
        """There is something to report."""
        return self._reporting.changed

    def digest(self, heads: Iterable[HeadRow], now_s: float) -> QueueDigest:
        """What has changed since the last one; not all of it, if it is much. ``heads``: of all
        endpoints that may have."""
        return QueueDigest(
            at_s=now_s,
            flows=self._reporting.flows(
                self._with_depths(self._reporting.take_changed(_FLOWS_A_PART))
            ),
            classes=self._reporting.class_rows(everything=False),
            heads=tuple(row for row in heads if self._is_new(row)),
            begun=self._reporting.begun,
            interval_s=self._interval_s,
        )

    def whole(self, heads: Iterable[HeadRow], now_s: float) -> list[QueueDigest]:
        """Everything, in parts. ``heads``: of all endpoints for which something waits."""
        heads, parts = [*heads], self._parts()
        return [self._whole_part(heads, part, parts, now_s) for part in range(parts)]

    def next_part(self, heads: Iterable[HeadRow], now_s: float) -> QueueDigest:
        """One part of everything, in turn. ``heads`` as in `whole`."""
        parts = self._parts()
        self._part = (self._part + 1) % parts
        return self._whole_part([*heads], self._part, parts, now_s)

    # -- what others report

    def hear(self, picker: str, digest: QueueDigest, now_s: float) -> Heard:
        """Take another picker's report."""
        heard = self._elsewhere.hear(picker, digest, now_s)
        for priority, cost in heard.given.items():
            self.queue.given_elsewhere(priority, cost, now_s)
        for row in digest.heads:
            self._rivals.hear(picker, row, now_s - digest.at_s)
        if digest.parts:
            named = {row.endpoint for row in digest.heads}
            self._rivals.hear_part(picker, named, digest.part, digest.parts)
        if digest.levels and picker == min((self._name, *self._elsewhere)):
            self._take_levels(digest.levels)
        return heard

    def knows(self) -> list[str]:
        """Pickers that have reported."""
        return [*self._elsewhere]

    def lapse(self, picker: str) -> None:
        """Another picker is gone: what waits there waits no longer."""
        self._elsewhere.lapse(picker)
        self._rivals.lapse(picker)

    # -- who goes

    def contended(self, endpoint: int) -> bool:
        """Something waits for the endpoint at another picker."""
        return endpoint in self._rivals

    def assumed(self, endpoint: int, now_s: float) -> Before:
        """What others are believed to have sent to an endpoint that is not known yet."""
        if not self._turns.has_sent(endpoint):
            return NOBODY
        busy = self._elsewhere.busy(now_s, BUSY_S)
        return self._turns.assumed(endpoint, busy, now_s, self.interval_s)

    def look_again(self, endpoint: int) -> None:
        """An endpoint has no room for what others are believed to have sent: look again once it is
        known what they have."""
        self._turns.waits(endpoint, self.interval_s)

    def before(self, endpoint: int, item: Item) -> Before:
        """What goes to an endpoint before an item that waits, from elsewhere."""
        if endpoint not in self._rivals:
            return NOBODY
        return self._rivals.before(endpoint, self.queue.turn(item))

    def goes(
        self, endpoint: int, item: Item, now_s: float, begins: Callable[[Before], bool]
    ) -> bool:
        """It is an item's turn at an endpoint. ``begins``: the endpoint would begin it at once when
        it had so much more."""
        assumed = self.assumed(endpoint, now_s)
        if not begins(assumed):
            if assumed.requests and begins(NOBODY):
                self.look_again(endpoint)
            else:
                self._turns.went(endpoint)
            return False
        before = self.before(endpoint, item)
        if before.requests and not begins(_sum(assumed, before)):
            interval_s = self.interval_s
            if not self._turns.has_waited(endpoint, before.requests, now_s, interval_s):
                return False
        self._turns.went(endpoint)
        return True

    def sent(self, endpoint: int, tokens: float, now_s: float) -> None:
        """A request goes to an endpoint, whether it has waited or not."""
        self._reporting.begun += 1
        if len(self._elsewhere):
            self._turns.sent(endpoint, tokens, now_s, self.interval_s)

    def next_s(self, now_s: float) -> float:
        """When to look again whether something goes that lets others go before it; infinite:
        nothing does."""
        return self._turns.next_s(now_s) if len(self._elsewhere) else inf

    # -- how much there is

    @property
    def reported(self) -> Iterable[int]:
        """Endpoints for which something waits by the last report."""
        return self._reported

    @property
    def endpoints(self) -> Iterable[int]:
        """For which something waits elsewhere."""
        return self._rivals

    def waiting(self, endpoint: int) -> tuple[int, float]:
        """Requests that wait for an endpoint elsewhere, and their tokens of prefill."""
        return self._rivals.waiting(endpoint)

    @property
    def requests_elsewhere(self) -> int:
        """That wait at other pickers."""
        return self._elsewhere.requests

    # -- inside

    def _is_new(self, row: HeadRow) -> bool:
        before = self._reported.get(row.endpoint)
        if before == row:
            return False
        if row.requests:
            self._reported[row.endpoint] = row
        else:
            self._reported.pop(row.endpoint, None)
        return before is not None or row.requests > 0

    def _parts(self) -> int:
        waiting = sum(len(self.queue.flows(one)) for one in self.queue.classes())
        return min(_PARTS, 1 + max(len(self._reporting), waiting) // _FLOWS_A_PART)

    def _whole_part(self, heads: list[HeadRow], part: int, parts: int, now_s: float) -> QueueDigest:
        keys = dict.fromkeys(self._reporting.all_of(part, parts, now_s))
        waiting = [
            (priority, flow)
            for priority in self.queue.classes()
            for flow in self.queue.flows(priority)
            if part_of_flow(flow, parts) == part
        ]
        keys.update(dict.fromkeys(waiting))
        rows = [row for row in heads if part_of(row.endpoint, parts) == part]
        for row in rows:
            self._is_new(row)
        return QueueDigest(
            at_s=now_s,
            flows=self._reporting.flows(self._with_depths(keys)),
            classes=self._reporting.class_rows(everything=True),
            heads=tuple(row for row in rows if row.requests),
            levels=self._levels(part, parts) if self._leads() else (),
            begun=self._reporting.begun,
            interval_s=self._interval_s,
            part=part,
            parts=parts,
        )

    def _with_depths(self, keys: Iterable[FlowKey]) -> Iterable[tuple[FlowKey, Waiting]]:
        for key in keys:
            depth, weight = self.queue.tier(key[0]).depth_of(key[1])
            yield key, Waiting(weight, depth.requests, depth.tokens, depth.cost)

    def _leads(self) -> bool:
        return all(self._name < other for other in self._elsewhere)

    def _levels(self, part: int, parts: int) -> tuple[Level, ...]:
        levels = []
        for priority, tier in self.queue.tiers():
            shares = tier.shares
            least = shares.least()
            levels += [
                Level(priority, flow, shares.tag(flow) - least)
                for flow in tier.waiting_anywhere()
                if part_of_flow(flow, parts) == part
            ]
        return tuple(levels)

    def _take_levels(self, levels: tuple[Level, ...]) -> None:
        least = {one.priority: self.queue.tier(one.priority).shares.least() for one in levels}
        for one in levels:
            shares = self.queue.tier(one.priority).shares
            if one.flow in shares:
                ahead = shares.tag(one.flow) - least[one.priority]
                shares.correct(one.flow, one.ahead - ahead)


def _sum(one: Before, other: Before) -> Before:
    return Before(one.requests + other.requests, one.tokens + other.tokens)
