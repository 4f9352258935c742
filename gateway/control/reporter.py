"""A picker worker's endpoints as reports: only those that are not as last reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np

from picker.state.endpoints import PoolState
from picker.state.spec import EndpointKey
from picker.wire import control_pb2
from policies.routing.types import Floats

_WITH_REASON: Final = 7
"""From this row of the columns on they flag endpoints of which something is missing."""

_CACHE: Final = 6

_CACHES: Final = {"events": 1.0, "missing": 2.0, "asked": 3.0}
"""How a prefix cache is known, as a number."""


class EndpointReporter:
    """Compares whole columns: at 1,000 endpoints of which few have changed a report takes half a
    millisecond. An endpoint that is not healthy, that is left out, or of which something is
    missing, is reported every time, as the reason may be new.
    """

    def __init__(
        self,
        pools: Mapping[str, PoolState],
        under_way: Callable[[str, str], int],
        tripped: Callable[[str, float], Mapping[int, str]],
        caches: Callable[[str], Mapping[int, str]],
    ) -> None:
        """``pools`` is read at every call: pools may come and go in it. ``under_way``: requests on
        an endpoint, by pool and address. ``tripped``: slots of a pool whose circuit breakers are
        open at a time, and why. ``caches``: slots of which events of the prefix cache come, or are
        missing."""
        self._caches = caches
        self._tripped = tripped
        self._pools = pools
        self._under_way = under_way
        self._reported: dict[str, tuple[dict[str, int], Floats]] = {}
        """By pool, as last reported: slots by address, and what can change of an endpoint, shape
        (columns, slots)."""
        self._removed: set[EndpointKey] = set()

    def forget(self) -> None:
        """Nothing that was reported is known any more: the next report has everything."""
        self._reported, self._removed = {}, set()

    def fill(
        self, report: control_pb2.Report, *, now_s: float, removed: Iterable[EndpointKey]
    ) -> None:
        """Put into a report what has changed since the last one. ``removed``: endpoints of pools
        that are gone from the configuration and still finish requests."""
        for pool in self._reported.keys() - self._pools.keys():
            _add_gone(report, pool, self._reported.pop(pool)[0])
        for pool, state in self._pools.items():
            self._fill_pool(report, pool, state, now_s)
        before, self._removed = self._removed, set(removed)
        for pool, address in before - self._removed:
            _add_gone(report, pool, (address,))
        for pool, address in self._removed:
            report.endpoints.add(
                pool=pool,
                address=address,
                problem="its pool is being removed",
                in_flight_requests=self._under_way(pool, address),
            )

    def _fill_pool(
        self, report: control_pb2.Report, pool: str, state: PoolState, now_s: float
    ) -> None:
        tripped = self._tripped(pool, now_s)
        slots, columns = dict(state.slot_of), self._columns(pool, state, now_s)
        columns[-1, list(tripped)] = 1.0
        caches = self._caches(pool)
        for slot, cache in caches.items():
            columns[_CACHE, slot] = _CACHES.get(cache, 0.0)
        slots_before, columns_before = self._reported.get(pool, ({}, np.zeros((0, 0))))
        self._reported[pool] = (slots, columns)
        _add_gone(report, pool, slots_before.keys() - slots.keys())
        changed = (columns[0] == 0.0) | columns[_WITH_REASON:].any(axis=0)
        if columns.shape == columns_before.shape:
            changed |= (columns != columns_before).any(axis=0)
        else:
            changed[:] = True
        flags = changed.tolist()
        for address, slot in slots.items():
            if flags[slot] or slots_before.get(address) != slot:
                healthy, in_flight, waiting, running, kv_usage, *_ = columns[:, slot].tolist()
                report.endpoints.add(
                    pool=pool,
                    address=address,
                    healthy=bool(healthy),
                    problem=problem_of(state, address, now_s),
                    in_flight_requests=int(in_flight),
                    waiting_requests=waiting,
                    running_requests=running,
                    kv_usage=kv_usage,
                    models=state.models.served_by(slot),
                    warning=state.why_no_signals(address) if healthy else "",
                    breaker=tripped.get(slot, ""),
                    cache=caches.get(slot, ""),
                )

    def _columns(self, pool: str, state: PoolState, now_s: float) -> Floats:
        view, in_flight = state.view, np.zeros(state.slots)
        in_flight[list(state.slot_of.values())] = [
            self._under_way(pool, address) for address in state.slot_of
        ]
        return np.stack(
            (
                state.healthy(now_s) & state.models.any_served(),
                in_flight,
                view.waiting_requests,
                view.running_requests,
                view.kv_usage,
                state.models.revisions,
                np.zeros(state.slots),  # how the prefix cache is known
                state.silent(now_s),
                state.without_signals(),
                np.zeros(state.slots),  # whose circuit breakers are open
            ),
            dtype=np.float64,
        )


def problem_of(state: PoolState, address: str, now_s: float) -> str:
    """Why the endpoint cannot take requests for a model, or only for want of a better one."""
    return state.why_not(address, now_s) or state.why_no_models(address) or ""


def _add_gone(report: control_pb2.Report, pool: str, addresses: Iterable[str]) -> None:
    report.gone.extend(control_pb2.EndpointName(pool=pool, address=one) for one in addresses)
