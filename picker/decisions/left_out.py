"""Why replicas were no candidates for a request."""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct

from picker.request.choice import LeftOut, LeftOutReplica, Why
from picker.request.context import RequestContext
from picker.request.role import Role
from picker.state.pool import PoolRuntime
from policies.routing.types import Bools, Slots

MAX_NAMED: Final = 16
"""Replicas of which the reason is kept; the others are counted."""
_FRESH_S: Final = 1.0
_MAX_KEPT: Final = 32
_FILTERED: Final = "a filter of the policy has left it out"


class Asked(Struct, frozen=True):
    """What a request asks of a replica."""

    model: str
    adapter: str
    role: Role
    subset: frozenset[str] | None
    holder: str
    """Replica that stores the response asked for, "" for none."""


def asked_of(context: RequestContext, role: Role) -> Asked:
    """What a request asks of the replica for one of its parts."""
    return Asked(context.served_model, context.adapter, role, context.head.subset, context.holder)


class Reasons:
    """Finds them: once a second for requests that ask for the same."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Asked, bytes, bytes], LeftOut | None] = {}
        self._kept_s = -np.inf

    def of(
        self, pool: PoolRuntime, able: Slots, weighed: Slots, asked: Asked, now_s: float
    ) -> LeftOut | None:
        """``able``: replicas that the policy was given; ``weighed``: those that it has left after
        its own filters."""
        if now_s - self._kept_s > _FRESH_S:
            self._kept.clear()
            self._kept_s = now_s
        key = (pool.name, asked, able.tobytes(), weighed.tobytes())
        if key not in self._kept:
            if len(self._kept) >= _MAX_KEPT:
                return LeftOut(len(pool.state.slot_of) - min(able.size, weighed.size), ())
            self._kept[key] = _found(pool, able, weighed, asked, now_s)
        return self._kept[key]


def _found(
    pool: PoolRuntime, able: Slots, weighed: Slots, asked: Asked, now_s: float
) -> LeftOut | None:
    state = pool.state
    was_able, was_weighed = _flags(able, state.slots), _flags(weighed, state.slots)
    total = 0
    named: list[LeftOutReplica] = []
    in_subset = _flags(state.in_subset(asked.subset), state.slots) if asked.subset else None
    for address, slot in state.slot_of.items():
        if was_weighed[slot]:
            continue
        total += 1
        if len(named) == MAX_NAMED:
            continue
        if was_able[slot]:
            why, reason = _filtered(pool, slot, asked)
        else:
            why, reason = _unable(pool, address, slot, asked, in_subset, now_s)
        named.append(LeftOutReplica(address, why, reason))
    return LeftOut(total, tuple(named)) if total else None


def _filtered(pool: PoolRuntime, slot: int, asked: Asked) -> tuple[Why, str]:
    if asked.adapter and not pool.state.models.serving(asked.adapter)[slot]:
        return Why.ADAPTER, f"it has not loaded the LoRA adapter {asked.adapter!r}"
    return Why.POLICY, _FILTERED


def _unable(
    pool: PoolRuntime,
    address: str,
    slot: int,
    asked: Asked,
    in_subset: Bools | None,
    now_s: float,
) -> tuple[Why, str]:
    state = pool.state
    if asked.holder and address != asked.holder:
        return Why.RESPONSE, f"{asked.holder} stores the response that the request is about"
    if state.specs[address].draining:
        return Why.DRAINING, "draining"
    problem = state.why_not(address, now_s)
    if problem is not None:
        return Why.UNHEALTHY, problem
    if asked.subset is not None and (in_subset is None or not in_subset[slot]):
        return Why.SUBSET, "it is not in the subset that the gateway allows"
    if asked.model and not state.models.serving(asked.model)[slot]:
        if asked.adapter:
            return Why.ADAPTER, f"it has not loaded the LoRA adapter {asked.adapter!r}"
        return Why.MODEL, f"it does not list the model {asked.model!r}"
    if state.specs[address].role not in (Role.BOTH, asked.role):
        return Why.ROLE, f"it does {state.specs[address].role.value} only"
    if said := pool.breakers.why(slot, now_s):
        return Why.BREAKER, said
    return Why.POLICY, _FILTERED


def _flags(slots: Slots, size: int) -> Bools:
    flags = np.zeros(size, np.bool_)
    flags[slots] = True
    return flags
