"""How many of the requests that may be shed are: the more, the longer they would wait."""

from __future__ import annotations

from typing import Final

_NONE_BELOW: Final = 0.25
"""Share of its time to live up to which a request waits for certain."""


def shed_share(wait_s: float, ttl_s: float) -> float:
    """Share of the requests of a class to turn away, 0 to 1, by their predicted wait: none while it
    is a quarter of the time to live or less, all when it is the whole. Rising without a step, so
    that under steady overload the queue settles where just what cannot be served is shed."""
    if ttl_s <= 0:
        return 1.0
    share = (wait_s / ttl_s - _NONE_BELOW) / (1.0 - _NONE_BELOW)
    return min(1.0, max(0.0, share))
