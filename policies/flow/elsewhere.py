"""What other pickers have waiting for the pool, and what they have served: it counts in the shares
of this picker's queue as if it were its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

from policies.flow.digest import ClassRow, FlowRow, QueueDigest
from policies.flow.reporting import FlowKey, part_of_flow
from policies.flow.tier import Tier


@dataclass(slots=True)
class _Peer:
    flows: dict[FlowKey, FlowRow] = field(default_factory=dict)
    classes: dict[int, ClassRow] = field(default_factory=dict)
    parts: set[int] = field(default_factory=set)
    """That were heard."""
    known: bool = False
    """All parts were heard, so that all that it reports for the first time from now on is new."""
    begun: int = 0
    begun_s: float = -inf
    """When it was last heard to have sent something."""
    heard_s: float = -inf
    waiting: int = 0
    """Requests."""
    interval_s: float = 0.0


@dataclass(slots=True)
class Heard:
    """What a digest has brought that was not known."""

    given: dict[int, float] = field(default_factory=dict)
    """Cost, by class."""
    came: dict[int, float] = field(default_factory=dict)


class Elsewhere:
    """By picker. ``tier`` gives the class of a priority."""

    def __init__(self, tier: Callable[[int], Tier]) -> None:
        self._tier = tier
        self._peers: dict[str, _Peer] = {}
        self.interval_s = 0.0
        """In which everything is known here that has changed elsewhere."""

    def __len__(self) -> int:
        """Pickers that are known."""
        return len(self._peers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._peers)

    @property
    def requests(self) -> int:
        """Waiting, of all other pickers."""
        return sum(peer.waiting for peer in self._peers.values())

    def busy(self, now_s: float, within_s: float) -> list[float]:
        """When each was heard last of the pickers that have sent something of late, or have
        something waiting."""
        since_s = now_s - within_s
        return [
            peer.heard_s
            for peer in self._peers.values()
            if peer.waiting > 0 or peer.begun_s >= since_s
        ]

    def hear(self, picker: str, digest: QueueDigest, now_s: float) -> Heard:
        """Take what a picker reports. What it had served before it was first heard of counts as
        nothing: who comes new takes over what others know (see `Shares`)."""
        peer = self._peers.setdefault(picker, _Peer())
        heard, peer.heard_s = Heard(), now_s
        if peer.begun != digest.begun:
            peer.begun, peer.begun_s = digest.begun, now_s
        if peer.interval_s != digest.interval_s:
            peer.interval_s = digest.interval_s
            self.interval_s = max(one.interval_s for one in self._peers.values())
        for row in digest.flows:
            self._hear_flow(peer, row)
        for one in digest.classes:
            self._hear_class(peer, one, heard)
        if digest.parts:
            self._hear_part(peer, digest)
        return heard

    def lapse(self, picker: str) -> None:
        """A picker is gone: nothing waits there. What it has served stays served."""
        peer = self._peers.pop(picker, None)
        if peer is not None:
            for row in [*peer.flows.values()]:
                self._wait(peer, row, None)

    def _hear_flow(self, peer: _Peer, row: FlowRow) -> None:
        before = peer.flows.get((row.priority, row.flow))
        peer.flows[row.priority, row.flow] = row
        self._wait(peer, before, row)
        if before is not None and before.since == row.since:
            served = row.served - before.served
        elif before is not None or peer.known:
            served = row.served
        else:
            served = 0.0
        if served > 0:
            self._tier(row.priority).shares.charge(row.flow, served)
        elif served < 0:
            self._tier(row.priority).shares.correct(row.flow, served)

    def _hear_class(self, peer: _Peer, row: ClassRow, heard: Heard) -> None:
        before = peer.classes.get(row.priority)
        peer.classes[row.priority] = row
        if before is None and not peer.known:
            return
        given, came = (0.0, 0.0) if before is None else (before.given, before.came)
        if row.given > given:
            heard.given[row.priority] = row.given - given
        if row.came > came:
            heard.came[row.priority] = row.came - came

    def _hear_part(self, peer: _Peer, digest: QueueDigest) -> None:
        peer.parts.add(digest.part)
        peer.known = peer.known or len(peer.parts) >= digest.parts
        named = {(row.priority, row.flow) for row in digest.flows}
        for key in [key for key in peer.flows if key not in named]:
            if part_of_flow(key[1], digest.parts) == digest.part:
                self._wait(peer, peer.flows.pop(key), None)

    def _wait(self, peer: _Peer, before: FlowRow | None, row: FlowRow | None) -> None:
        """What waits of a flow at a picker is another thing now."""
        had, has = _or_none(before), _or_none(row)
        if had is None and has is None:
            return
        if has is not None:  # first, or a flow would be gone for a moment
            peer.waiting += has.requests
            self._tier(has.priority).more_elsewhere(has)
        if had is not None:
            peer.waiting -= had.requests
            self._tier(had.priority).less_elsewhere(had)


def _or_none(row: FlowRow | None) -> FlowRow | None:
    return row if row is not None and row.requests > 0 else None
