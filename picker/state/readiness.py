"""How well a pool can serve a model now."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np

from picker.state.pool import PoolRuntime
from policies.routing.types import Bools, Slots


class Readiness(IntEnum):
    """The higher the better."""

    NONE = 0
    """No replica has it."""
    OUT = 1
    """Its replicas are out, or drain."""
    SILENT = 2
    """Only replicas that have not answered for a while."""
    FAILING = 3
    """Only replicas that have failed so often that they are left out."""
    READY = 4


def readiness(
    pool: PoolRuntime, model: str, now_s: float, subset: Iterable[str] | None = None
) -> Readiness:
    """Of a pool for a model, with the endpoints of the ``subset`` alone if there is one."""
    able = pool.state.models.serving(model).copy()
    if subset is not None:
        named = pool.state.in_subset(subset)
        flags = np.zeros(able.size, np.bool_)
        flags[named] = True
        able &= flags
    if not able.any():
        return Readiness.NONE
    responsive = _those(pool.state.responsive(now_s), able)
    if responsive.size:
        admitting = pool.breakers.admitting(responsive, model, now_s)
        return Readiness.READY if admitting.size else Readiness.FAILING
    silent = _those(pool.state.candidates(now_s), able)
    return Readiness.SILENT if silent.size else Readiness.OUT


def _those(slots: Slots, able: Bools) -> Slots:
    return slots[able[slots]]
