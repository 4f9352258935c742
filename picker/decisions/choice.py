"""From a ranking to the choice that is kept."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np
from numpy.typing import NDArray

from picker.request.choice import HARM, TPOT, TTFT, Choice, LeftOut, first_of
from picker.request.pick import Pick
from picker.state.endpoints import PoolState
from policies.routing.types import Considered, Floats, Ranking, RoutingRequest, Slots

log = logging.getLogger(__name__)

ROWS: Final = 16
"""Candidates of which the numbers are kept: those tried, and those with the highest scores."""
_GROUPS: Final = 64
_SAME_SIZE: Final = "columns of a ranking differ in length"


def choice_of(
    policy: str,
    ranking: Ranking,
    request: RoutingRequest,
    state: PoolState,
    pick: Pick,
    left_out: LeftOut | None,
) -> Choice:
    """The choice that led to ``pick``. Call it before the request is counted in the pool's view.
    ``policy``: its name."""
    bound = request.session_slot
    choice = Choice(
        pick.role,
        policy,
        pick.addresses,
        pick.features,
        "" if bound is None else state.address_of(bound),
        left_out,
    )
    try:
        _keep_numbers(choice, ranking, request, state)
    except (ValueError, IndexError, TypeError, AttributeError):
        # What somebody else's policy says of its ranking is no reason to refuse a request.
        log.warning("policy %s says nothing sound of what it weighed", policy, exc_info=True)
    return choice


def _keep_numbers(
    choice: Choice, ranking: Ranking, request: RoutingRequest, state: PoolState
) -> None:
    ttft_s, tpot_s = ranking.predicted_ttft_s, ranking.predicted_tpot_s
    choice.predicted_ttft_s, choice.predicted_tpot_s = first_of(ttft_s), first_of(tpot_s)
    weighed = ranking.considered
    if weighed is None:
        weighed = Considered(ranking.slots, ranking.scores, ttft_s, tpot_s)
    slots, rows = weighed.slots, None
    choice.candidates = slots.size
    if slots.size > ROWS:
        rows = _rows(weighed, ranking.slots)
        slots = slots.take(rows)
    view, given = state.view, 0
    kept: list[Floats] = [weighed.scores]
    if weighed.predicted_ttft_s is not None:
        given |= TTFT
        kept.append(weighed.predicted_ttft_s)
    if weighed.predicted_tpot_s is not None:
        given |= TPOT
        kept.append(weighed.predicted_tpot_s)
    if weighed.harm_s is not None:
        given |= HARM
        kept.append(weighed.harm_s)
    matched, ahead = weighed.matched_tokens, weighed.backlog_tokens
    if rows is not None:
        kept = [column.take(rows) for column in kept]
        matched = None if matched is None else matched.take(rows)
        ahead = None if ahead is None else ahead.take(rows)
    kept.append(request.matched_tokens.take(slots) if matched is None else matched)
    kept.append(view.in_flight_prefill_tokens.take(slots) if ahead is None else ahead)
    kept.append(view.in_flight_requests.take(slots))
    kept.append(view.waiting_requests.take(slots))
    cells = np.concatenate(kept, dtype=np.float32, casting="same_kind")
    if cells.size != len(kept) * slots.size:
        raise ValueError(_SAME_SIZE)
    choice.endpoints = state.addresses_of(slots)
    choice.given, choice.cells = given, cells.tobytes()


def _rows(weighed: Considered, ranked: Slots) -> NDArray[np.intp]:
    """Rows of the endpoints that are tried, and of the highest scores; some may stand twice."""
    scores, slots = weighed.scores, weighed.slots
    best = _highest(scores, ROWS)
    tried = slots.searchsorted(ranked)
    if not (slots.take(tried, mode="clip") == ranked).all():  # not in order
        tried = np.array([(slots == slot).nonzero()[0][0] for slot in ranked.tolist()], np.intp)
    return np.concatenate((tried, best))


def _highest(scores: Floats, count: int) -> NDArray[np.intp]:
    """Rows of the ``count`` highest ones; there are more. Often many are equal, and then a
    partition of 1,000 takes up to 250 us: the best of 64 groups bound them at a tenth of that."""
    if scores.size < 4 * _GROUPS:
        return scores.argsort()[-count:]
    whole = scores.size - scores.size % _GROUPS
    tops = scores[:whole].reshape(-1, _GROUPS).max(axis=0)
    tops.sort()
    least = tops.item(-count)  # so many at least are not lower
    above = (scores > least).nonzero()[0]
    if above.size >= count:
        best: NDArray[np.intp] = above.take(scores.take(above).argsort()[-count:])
        return best
    equal = (scores == least).nonzero()[0]
    return np.concatenate((above, equal[: count - above.size]))
