"""From a ranking to the choice that is kept."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np
from numpy.typing import NDArray

from picker.request.choice import Choice, first_of
from picker.request.pick import Pick
from picker.state.endpoints import PoolState
from policies.routing.types import Considered, Floats, Ranking, RoutingRequest, Slots

log = logging.getLogger(__name__)

ROWS: Final = 16
"""Candidates of which the numbers are kept: those tried, and those with the highest scores."""
_GROUPS: Final = 64


def choice_of(
    policy: str,
    ranking: Ranking,
    request: RoutingRequest,
    state: PoolState,
    pick: Pick,
    able: int,
) -> Choice:
    """The choice that led to ``pick``. Call it before the request is counted in the pool's view.
    ``policy``: its name. ``able``: candidates that it was given."""
    bound = request.session_slot
    choice = Choice(
        pick.role,
        policy,
        pick.addresses,
        pick.features,
        "" if bound is None else state.address_of(bound),
    )
    choice.candidates = able
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
    count = weighed.slots.size
    if count > ROWS:
        weighed = _taken(weighed, _rows(weighed, ranking.slots))
    view, slots = state.view, weighed.slots
    matched, ahead = weighed.matched_tokens, weighed.backlog_tokens
    choice.matched_tokens = request.matched_tokens.take(slots) if matched is None else matched
    choice.backlog_tokens = view.in_flight_prefill_tokens.take(slots) if ahead is None else ahead
    choice.in_flight_requests = view.in_flight_requests.take(slots)
    choice.waiting_requests = view.waiting_requests.take(slots)
    choice.endpoints = state.addresses_of(slots)
    choice.weighed = weighed
    if ranking.considered is not None:
        choice.candidates = count


def _taken(weighed: Considered, rows: NDArray[np.intp]) -> Considered:
    return Considered(
        weighed.slots.take(rows),
        weighed.scores.take(rows),
        *[
            None if column is None else column.take(rows)
            for column in (
                weighed.predicted_ttft_s,
                weighed.predicted_tpot_s,
                weighed.matched_tokens,
                weighed.backlog_tokens,
                weighed.harm_s,
            )
        ],
    )


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
