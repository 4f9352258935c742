"""The queue of one pool among the queues of all pickers: what others are to know of it, and whether
they let a request go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from math import inf
from typing import Final

import numpy as np

from picker.admission.places import Places
from picker.seams.peers import endpoint_key
from picker.state.pool import PoolRuntime
from policies.flow.digest import HeadRow, QueueDigest
from policies.flow.elsewhere import Heard
from policies.flow.item import Item
from policies.flow.queue import FlowQueue
from policies.flow.rivals import Before
from policies.flow.shared import SharedQueue

_HEADS: Final = 64
"""Endpoints of which is looked up what goes next there, at most for one report."""


class Sharing:
    """Of one pool. Single-threaded. As long as there are no other pickers it does nothing."""

    def __init__(
        self,
        name: str,
        pool: PoolRuntime,
        queue: FlowQueue,
        places: Places,
        claims: Callable[[int, Item], float | None],
        now: Callable[[], float],
    ) -> None:
        """``name``: of this picker; ``claims`` gives the tokens that an item would have to
        prefill at a slot; None: it would not go there if there was room."""
        self._name, self._pool, self._queue, self._places = name, pool, queue, places
        self._claims, self._now = claims, now
        self._shared: SharedQueue | None = None
        self._turn = 0

    @property
    def alone(self) -> bool:
        """There are no other pickers."""
        return self._shared is None

    @property
    def requests_elsewhere(self) -> int:
        """That wait at other pickers."""
        return 0 if self._shared is None else self._shared.requests_elsewhere

    @property
    def interval_s(self) -> float:
        """In which what has changed at one picker is known to the others."""
        return 0.0 if self._shared is None else self._shared.interval_s

    # -- reports

    def follow(self, live: Collection[str], interval_s: float) -> None:
        """These other pickers live, and what is reported is known to them in ``interval_s``."""
        shared = self._shared
        if shared is not None:
            for picker in shared.knows():
                if picker not in live:
                    shared.lapse(picker)
        if not live:
            self._shared = self._queue.reporting = None
        elif shared is None:
            self._shared = SharedQueue(self._name, self._queue, interval_s, self._now())
        self._note_waiting()

    def digests(self, *, everything: bool, part: bool) -> Iterator[QueueDigest]:
        """What others are to know by now: what has changed, one part of all, or all."""
        shared, now_s = self._shared, self._now()
        if shared is None:
            return
        if everything:
            yield from shared.whole(self._heads(shared, inf), now_s)
        elif part:
            yield shared.next_part(self._heads(shared, inf), now_s)
        else:
            heads = [*self._heads(shared, _HEADS)]
            while heads or shared.is_changed:
                yield shared.digest(heads, now_s)
                heads = []

    def hear(self, picker: str, digest: QueueDigest) -> Heard | None:
        """Take another picker's report."""
        if self._shared is None:
            return None
        heard = self._shared.hear(picker, digest, self._now())
        if digest.parts:
            self._note_waiting()
        elif digest.heads:
            self._note_waiting_at([row.endpoint for row in digest.heads])
        return heard

    # -- turns

    def contended(self, slot: int) -> bool:
        """Something waits for the endpoint at another picker."""
        key = self._key(slot)
        return self._shared is not None and key is not None and self._shared.contended(key)

    def has_room(self, slot: int, *, sheddable: bool = False) -> bool:
        """The endpoint would begin one more request, if the others have done as this picker did."""
        shared = self._shared
        if shared is None or (key := self._key(slot)) is None:
            return self._places.has_room(slot, sheddable=sheddable)
        assumed = shared.assumed(key, self._now())
        if self._places.has_room(slot, assumed, sheddable=sheddable, shares=True):
            return True
        if assumed.requests:
            shared.look_again(key)
        return False

    def goes(self, slot: int, item: Item) -> bool:
        """It is an item's turn at an endpoint."""
        shared, key = self._shared, None if self._shared is None else self._key(slot)
        if shared is None or key is None:
            return True

        def begins(before: Before) -> bool:
            sheddable = item.priority < 0
            return self._places.has_room(slot, before, sheddable=sheddable, shares=True)

        return shared.goes(key, item, self._now(), begins)

    def sent(self, slot: int, tokens: float) -> None:
        """A request goes to an endpoint, with so many tokens to prefill."""
        key = self._key(slot)
        if self._shared is not None and key is not None:
            self._shared.sent(key, tokens, self._now())

    def next_s(self) -> float:
        """When to look again whether something goes that lets others go before it."""
        return inf if self._shared is None else self._shared.next_s(self._now())

    # -- inside

    def _key(self, slot: int) -> int | None:
        """Of the endpoint in a slot; None: it is gone."""
        try:
            return endpoint_key(self._pool.state.address_of(slot))
        except KeyError:
            return None

    def _heads(self, shared: SharedQueue, most: float) -> Iterable[HeadRow]:
        """Of endpoints for which something waits, or did by the last report."""
        slots: list[int] = self._places.waiting.requests.nonzero()[0].tolist()
        gone = set(shared.reported)
        named: list[tuple[int, int]] = []
        for slot in slots:
            key = self._key(slot)
            if key is not None:
                gone.discard(key)
                named.append((slot, key))
        for key in gone:
            yield HeadRow(key, 0, 0.0, claims=False)
        if len(named) > most:  # the others come another time
            start = self._turn = (self._turn + int(most)) % len(named)
            named = (named + named)[start : start + int(most)]
        for slot, key in named:
            yield self._head(slot, key)

    def _head(self, slot: int, key: int) -> HeadRow:
        waiting = self._places.waiting
        requests = int(waiting.requests.item(slot))
        tokens = waiting.prefill_tokens.item(slot)
        for first in self._queue.firsts(slot):
            prefill = self._claims(slot, first)
            if prefill is not None:
                break
        else:
            return HeadRow(key, requests, tokens, claims=False)
        not_owed, _, _, arrived_s = self._queue.turn(first)
        return HeadRow(
            endpoint=key,
            requests=requests,
            prefill_tokens=tokens,
            claims=True,
            priority=first.priority,
            flow=first.flow,
            owed=not not_owed,
            arrived_s=arrived_s,
            tokens=prefill,
        )

    def _note_waiting(self) -> None:
        """What waits elsewhere for each endpoint counts where requests are placed."""
        self._places.elsewhere.clear()
        if self._shared is not None:
            self._note_waiting_at([*self._shared.endpoints])

    def _note_waiting_at(self, keys: list[int]) -> None:
        if not keys or self._shared is None:
            return
        self._places.grow()
        slots = self._pool.state.slots_of(np.array(keys, np.uint64)).tolist()
        for key, slot in zip(keys, slots, strict=True):
            if slot >= 0:
                self._places.elsewhere.put(slot, *self._shared.waiting(key))
