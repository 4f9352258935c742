"""What other pickers have in flight, as they report it: columns for each picker, by pool."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from picker.seams.peers import ALL, EndpointKeys, Loads, Span, endpoint_key
from picker.state.endpoints import PoolState
from policies.routing.types import Floats, Slots

_NO_GENERATION = -1


@dataclass(slots=True)
class _Share:
    """What one picker has in one pool. A row counts while its slot is of the same generation: the
    pool's columns are zeroed when a slot goes to another endpoint."""

    state: PoolState
    keys: EndpointKeys = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Of the endpoint that each row is about."""
    rows: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    generations: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    departed: dict[int, int] = field(default_factory=dict)
    """Requests on endpoints that the pool does not have (any more), by their keys."""

    def replace(self, slots: Slots, keys: EndpointKeys, rows: Floats) -> Floats:
        """Put ``rows`` in place of what is counted for ``slots``, whose endpoints have these
        ``keys``, here and in the pool's columns; returns what was counted."""
        self._grow()
        generations = self.state.generations[slots]
        if (self.generations[slots] != generations).any():
            self.sweep()
            self.keys[slots], self.generations[slots] = keys, generations
        before: Floats = self.rows[slots]
        self.rows[slots] = rows
        change, view = (rows - before).T, self.state.view
        view.in_flight_requests[slots] += change[0]
        view.in_flight_prefill_tokens[slots] += change[1]
        view.in_flight_kv_tokens[slots] += change[2]
        return before

    def loaded(self) -> Slots:
        """Slots with requests of this picker."""
        self._grow()
        slots: Slots = (self.rows[:, 0] * (self.generations == self.state.generations)).nonzero()[0]
        return slots

    def at(self, slot: int) -> Floats:
        """The row of a slot, shape (3,)."""
        row = np.zeros(3)
        if slot < len(self.rows) and self.generations[slot] == self.state.generation_of(slot):
            row[:] = self.rows[slot]
        return row

    def clear(self, slots: Slots) -> None:
        """Count nothing for ``slots`` any more."""
        self.replace(slots, self.keys[slots], np.zeros((slots.size, 3)))

    def sweep(self) -> None:
        """Requests on endpoints that have left the pool count as departed."""
        self._grow()
        left = ((self.generations != self.state.generations) & (self.rows[:, 0] > 0)).nonzero()[0]
        if left.size:
            requests = self.rows[left, 0].astype(int).tolist()
            self.departed.update(zip(self.keys[left].tolist(), requests, strict=True))
            self.rows[left] = 0.0

    def elsewhere(self, keys: EndpointKeys, rows: Floats) -> None:
        """Take requests on endpoints that the pool does not have, in place of what was there."""
        for key, requests in zip(keys.tolist(), rows[:, 0].astype(int).tolist(), strict=True):
            if requests:
                self.departed[key] = requests
            else:
                self.departed.pop(key, None)

    def only(self, keys: EndpointKeys, span: Span) -> None:
        """Of the departed endpoints with keys in ``span`` those of ``keys`` alone have requests."""
        named = set(keys.tolist())
        for key in [key for key in self.departed if key not in named]:
            if span.first <= key <= span.last:
                del self.departed[key]

    def _grow(self) -> None:
        more = self.state.slots - len(self.rows)
        if more:
            self.keys = np.concatenate([self.keys, np.zeros(more, np.uint64)])
            self.rows = np.concatenate([self.rows, np.zeros((more, 3))])
            self.generations = np.concatenate(
                [self.generations, np.full(more, _NO_GENERATION, np.int64)]
            )


class ForeignLoads:
    """Adds what other pickers report to the in-flight columns of their pool's view.

    A report says what there is now, so one that is lost does no harm when the next one comes.
    Of endpoints that are not known here, the requests alone are kept, outside the columns: a pool
    that has been removed is served to the end.
    """

    def __init__(self, pools: Mapping[str, PoolState]) -> None:
        """``pools`` is read at every call: pools may come and go in it."""
        self._pools = pools
        self._shares: dict[str, dict[str, _Share]] = {}
        """By pool and picker."""

    def report(self, picker: str, loads: Loads) -> Sequence[str]:
        """Take what a picker has in flight on some endpoints in place of what it had there.

        Returns the addresses that got their first request of it; with a complete report, all that
        have one. Raises ValueError for rows that do not fit.
        """
        rows = loads.rows
        if rows.shape != (loads.endpoints.size, 3) or not np.isfinite(rows).all():
            raise ValueError(f"loads of {loads.endpoints.size} endpoints have other rows")
        share = self._share(picker, loads.pool)
        if share is None:
            return ()
        state, keys = share.state, loads.endpoints
        slots = state.slots_of(keys)
        known = slots >= 0
        if not known.all():
            share.elsewhere(keys[~known], rows[~known])
            slots, keys, rows = slots[known], keys[known], rows[known]
        before = share.replace(slots, keys, rows)
        if share.departed:
            share.elsewhere(keys, np.zeros_like(rows))
            if loads.complete is not None:
                share.only(loads.endpoints, loads.complete)
        begun = rows[:, 0] > 0
        if loads.complete is None:
            begun &= before[:, 0] == 0
        else:
            ended = np.setdiff1d(share.loaded(), slots)
            if loads.complete != ALL:
                keys = share.keys[ended]
                first, last = np.array(loads.complete, np.uint64)
                ended = ended[(keys >= first) & (keys <= last)]
            share.clear(ended)
        return [state.address_of(slot) for slot in slots[begun].tolist()]

    def sweep(self) -> None:
        """Endpoints or pools may have gone: what was in flight there is kept by endpoint."""
        for pool, shares in list(self._shares.items()):
            for share in shares.values():
                share.sweep()
            if pool not in self._pools and not any(share.departed for share in shares.values()):
                del self._shares[pool]

    def one_less(self, picker: str, address: str) -> None:
        """A request of a picker that can no longer report its loads has ended."""
        key = endpoint_key(address)
        for shares in self._shares.values():
            share = shares.get(picker)
            if share is None:
                continue
            slot = share.state.slot_of.get(address)
            requests, *tokens = share.at(slot).tolist() if slot is not None else (0.0,)
            if slot is not None and requests:
                left = [float(round(number * (1.0 - 1.0 / requests))) for number in tokens]
                row = np.array([[requests - 1.0, *left]]) if requests > 1 else np.zeros((1, 3))
                share.replace(np.array([slot]), np.array([key], np.uint64), row)
                return
            if key in share.departed:
                share.departed[key] -= 1
                if not share.departed[key]:
                    del share.departed[key]
                return

    def forget_at(self, live: Collection[str], pool: str, address: str) -> None:
        """An endpoint is idle: whatever pickers that are not live had there has ended."""
        for share in self._not_of(live, pool):
            slot = share.state.slot_of.get(address)
            if slot is not None and share.at(slot)[0]:
                share.clear(np.array([slot]))
            if share.departed:
                share.departed.pop(endpoint_key(address), None)

    def forget(self, picker: str) -> None:
        """Nothing of what a picker had in flight counts any more."""
        for shares in self._shares.values():
            share = shares.pop(picker, None)
            if share is not None:
                share.clear(share.loaded())

    def pickers(self) -> set[str]:
        """Those that have something in flight."""
        return {
            picker
            for shares in self._shares.values()
            for picker, share in shares.items()
            if share.departed or share.loaded().size
        }

    def left_behind(self, live: Collection[str], pool: str, address: str) -> int:
        """Requests on an endpoint of pickers that are not live; it may have left the pool, and the
        pool the configuration (see `sweep`)."""
        requests = 0
        for share in self._not_of(live, pool):
            slot = share.state.slot_of.get(address)
            if slot is not None:
                requests += int(share.at(slot)[0])
            if share.departed:
                requests += share.departed.get(endpoint_key(address), 0)
        return requests

    def _share(self, picker: str, pool: str) -> _Share | None:
        """None: the pool has never been here."""
        state, shares = self._pools.get(pool), self._shares.setdefault(pool, {})
        share = shares.get(picker)
        if state is None or (share is not None and share.state is state):
            return share
        before, share = share, _Share(state)
        if before is not None:  # the pool has gone and come back
            before.sweep()
            share.departed = before.departed
        shares[picker] = share
        return share

    def _not_of(self, live: Collection[str], pool: str) -> Iterator[_Share]:
        return (share for picker, share in self._shares.get(pool, {}).items() if picker not in live)
