"""What other pickers have in flight, as they report it: columns for each picker, by pool."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from picker.seams.peers import ALL, Loads, endpoint_keys
from picker.state.endpoints import PoolState
from policies.routing.types import Floats, Slots

_NO_GENERATION = -1


@dataclass(slots=True)
class _Share:
    """What one picker has in one pool. A row counts while its slot is of the same generation: the
    pool's columns are zeroed when a slot goes to another endpoint."""

    state: PoolState
    rows: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    generations: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def replace(self, slots: Slots, rows: Floats) -> Floats:
        """Put ``rows`` in place of what is counted for ``slots``, here and in the pool's columns;
        returns what was counted."""
        self._grow()
        generations = self.state.generations[slots]
        before: Floats = self.rows[slots]
        gone = self.generations[slots] != generations
        if gone.any():
            before[gone] = 0.0
            self.generations[slots] = generations
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
        self.replace(slots, np.zeros((slots.size, 3)))

    def _grow(self) -> None:
        more = self.state.slots - len(self.rows)
        if more:
            self.rows = np.concatenate([self.rows, np.zeros((more, 3))])
            self.generations = np.concatenate(
                [self.generations, np.full(more, _NO_GENERATION, np.int64)]
            )


class ForeignLoads:
    """Adds what other pickers report to the in-flight columns of their pool's view.

    A report says what there is now, so one that is lost does no harm when the next one comes.
    Endpoints that are not known here are left out until a later report.
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
        state = self._pools.get(loads.pool)
        if state is None:
            return ()
        slots = state.slots_of(loads.endpoints)
        known = slots >= 0
        if not known.all():
            slots, rows = slots[known], rows[known]
        share = self._share(picker, state)
        before = share.replace(slots, rows)
        begun = rows[:, 0] > 0
        if loads.complete is None:
            begun &= before[:, 0] == 0
        else:
            ended = np.setdiff1d(share.loaded(), slots)
            if loads.complete != ALL:
                keys = endpoint_keys(map(state.address_of, ended.tolist()))
                first, last = np.array(loads.complete, np.uint64)
                ended = ended[(keys >= first) & (keys <= last)]
            share.clear(ended)
        return [state.address_of(slot) for slot in slots[begun].tolist()]

    def one_less(self, picker: str, address: str) -> None:
        """A request of a picker that can no longer report its loads has ended."""
        for share, slot in self._at(picker, address):
            requests, *tokens = share.at(slot).tolist()
            if requests:
                left = [float(round(number * (1.0 - 1.0 / requests))) for number in tokens]
                row = np.array([[requests - 1.0, *left]])
                share.replace(np.array([slot]), row if requests > 1 else np.zeros((1, 3)))
                return

    def forget_at(self, live: Collection[str], pool: str, address: str) -> None:
        """An endpoint is idle: whatever pickers that are not live had there has ended."""
        for share, slot in self._left(live, pool, address):
            if share.at(slot)[0]:
                share.clear(np.array([slot]))

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
            if share.loaded().size
        }

    def left_behind(self, live: Collection[str], pool: str, address: str) -> int:
        """Requests on an endpoint of pickers that are not live."""
        return sum(int(share.at(slot)[0]) for share, slot in self._left(live, pool, address))

    def _share(self, picker: str, state: PoolState) -> _Share:
        shares = self._shares.setdefault(state.name, {})
        share = shares.get(picker)
        if share is None or share.state is not state:
            share = shares[picker] = _Share(state)
        return share

    def _left(self, live: Collection[str], pool: str, address: str) -> Iterator[tuple[_Share, int]]:
        for picker, share in self._shares.get(pool, {}).items():
            if picker not in live:
                slot = share.state.slot_of.get(address)
                if slot is not None:
                    yield share, slot

    def _at(self, picker: str, address: str) -> Iterator[tuple[_Share, int]]:
        for shares in self._shares.values():
            share = shares.get(picker)
            slot = share.state.slot_of.get(address) if share is not None else None
            if share is not None and slot is not None:
                yield share, slot
