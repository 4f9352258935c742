"""What those are told that do not get their turn."""

from __future__ import annotations

from math import ceil

from picker import names
from picker.request.rejection import Reason, Rejection
from policies.flow.item import Item


def turned_away(
    why: Reason, item: Item, message: str, *, wait_s: float, ttft_s: float
) -> Rejection:
    """It is told when to come back: when it would be served within the time that it may wait.
    ``wait_s``: predicted, if it came now; ``ttft_s``: the time to its first token after that."""
    may_s = item.expires_s - item.arrived_s
    retry_s = max(1, ceil(wait_s - 0.5 * may_s))
    headers = (
        ("retry-after", str(retry_s)),
        (names.PREDICTED_TTFT_MS, str(round(1000 * (wait_s + ttft_s)))),
    )
    return Rejection(why, message, headers=headers)


def stopping() -> Rejection:
    """It does not wait, because the gateway stops: another one may serve it."""
    return Rejection(Reason.SHUTTING_DOWN, "This gateway is shutting down.")
