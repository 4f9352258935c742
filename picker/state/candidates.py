"""Which endpoints of a pool a request may go to."""

from __future__ import annotations

import numpy as np

from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.state.pool import PoolRuntime
from policies.routing.types import Slots


def candidates_of(context: RequestContext, pool: PoolRuntime, now_s: float) -> Slots:
    """Healthy, in the subset, serving the model. Raises Rejection when there is none."""
    if context.holder:
        return _holder(context, pool)
    if context.head.subset is None:
        well = pool.state.responsive(now_s, context.served_model)
        if well.size:
            return well  # as nearly always
    try:
        return _fitting(context, pool, pool.state.candidates(now_s))
    except Rejection:
        return _fitting(context, pool, pool.state.last_resort())


def _fitting(context: RequestContext, pool: PoolRuntime, candidates: Slots) -> Slots:
    """Those of the endpoints that the request may go to. Raises Rejection when there is none."""
    state = pool.state
    if candidates.size == 0:
        raise Rejection(Reason.NO_ENDPOINTS, f"Pool {pool.name!r} has no replica to serve.")
    subset = context.head.subset
    if subset is not None:
        named = np.zeros(state.slots, np.bool_)
        named[state.in_subset(subset)] = True
        candidates = candidates[named[candidates]]
        if candidates.size == 0:
            raise Rejection(
                Reason.NO_ENDPOINTS, "No replica of the subset that was asked for can serve."
            )
    if context.served_model:
        candidates = candidates[state.models.serving(context.served_model)[candidates]]
        if candidates.size == 0:
            raise Rejection(
                Reason.NO_ENDPOINTS,
                f"No replica that can serve has {context.served_model!r} now.",
            )
    return candidates


def _holder(context: RequestContext, pool: PoolRuntime) -> Slots:
    """The replica that stores the response. No other one can serve, so that even as the last resort
    it will do; while it drains it can still be asked for what it has."""
    slot = pool.state.slot_of.get(context.holder)
    if slot is not None and not context.served_model and pool.state.is_draining(slot):
        return np.array([slot], np.intp)
    candidates = pool.state.last_resort()
    candidates = candidates[candidates == slot] if slot is not None else candidates[:0]
    if candidates.size == 0:
        raise Rejection(
            Reason.NO_ENDPOINTS, "The replica that stores the response cannot take requests now."
        )
    return candidates
