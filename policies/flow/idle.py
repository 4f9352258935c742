"""Whether an endpoint has capacity that nobody needs: for work that nobody waits for. Pure."""

from __future__ import annotations

from typing import Final

from policies.flow.room import Reserved
from policies.routing.types import PoolView

IDLE_PRIORITY: Final = -1_001
"""Class of requests that take idle capacity only: below all that an operator can give."""
PRESENT_S: Final = 60.0
"""Others count as present for so long after the last request of theirs came."""
_PREFILL_SHARE: Final = 0.1
"""Of an endpoint's time that prefills of idle work take while others are present: so often at most
does a request of theirs come while one runs."""
_BATCH_SHARE: Final = 0.5
"""Of the requests that an endpoint can run, up to which idle work is begun while others are
present: the larger its batch, the longer its steps. It leaves room for a burst, too."""
_BATCH_SHARE_ALONE: Final = 0.9
_MOST_BESIDE: Final = 16
"""Pieces of idle work that an endpoint runs at a time while others are present: so many lengthen
its steps by little, because a step reads all weights for one request as well as for sixteen."""
_LEAST_BOUND: Final = 16.0
"""A bound that was learned too low would never be found wrong by work that keeps below it."""
_KV_SHARE: Final = 0.8
"""Of the KV cache that may be in use when idle work is begun."""
_AHEAD_S: Final = 0.01
_AHEAD_ALONE_S: Final = 0.15
"""Prefill that an endpoint may have before it, while others are present and while nobody is."""
_LEAST_TOKENS: Final = 16.0
"""Of a prefill: one that is all cached takes a step, too."""
_SLOWEST: Final = 2_000.0
"""Tokens of prefill a second that an engine is believed to do at least: short prompts show the
length of a step, and answers that are not streamed that of a whole request."""


def is_idle(
    view: PoolView,
    reserved: Reserved,
    slot: int,
    *,
    running: int,
    bound: float,
    tokens_per_s: float,
    present: bool,
) -> bool:
    """The endpoint has room to spare for one more request. ``running``: pieces of idle work there;
    ``bound``: requests that it can run, as far as is known; ``present``: others use the pool."""
    if view.waiting_requests.item(slot) >= 1 or view.kv_usage.item(slot) > _KV_SHARE:
        return False
    ahead = view.in_flight_prefill_tokens.item(slot) + reserved.prefill_tokens.item(slot)
    ahead_s = ahead / max(tokens_per_s, _SLOWEST)
    if ahead_s > (_AHEAD_S if present else _AHEAD_ALONE_S):
        return False
    ours = view.in_flight_requests.item(slot) + reserved.requests.item(slot)
    requests = max(ours, view.running_requests.item(slot))
    if present:
        return running < _MOST_BESIDE and requests < max(1.0, _BATCH_SHARE * bound)
    return requests < _BATCH_SHARE_ALONE * max(bound, _LEAST_BOUND)


def rest_s(uncached_tokens: float, tokens_per_s: float, *, present: bool) -> float:
    """After a request with so many tokens to prefill, the endpoint gets the next one no sooner."""
    if not present:
        return 0.0
    prefill_s = max(_LEAST_TOKENS, uncached_tokens) / max(tokens_per_s, _SLOWEST)
    return prefill_s / _PREFILL_SHARE
