"""What those are told that do not get their turn."""

from __future__ import annotations

from math import ceil

from picker import names
from picker.request.rejection import Reason, Rejection
from policies.flow.item import Item


def retry_after_s(item: Item, wait_s: float) -> int:
    """When to come back who would wait so long now: when he would be served within half the time
    that he may wait."""
    return max(1, ceil(wait_s - 0.5 * (item.expires_s - item.arrived_s)))


def turned_away(why: Reason, message: str, *, retry_s: int, ttft_s: float) -> Rejection:
    """It is told when to come back. ``ttft_s``: to its first token, if it came now."""
    headers = (
        ("retry-after", str(retry_s)),
        (names.PREDICTED_TTFT_MS, str(round(1000 * ttft_s))),
    )
    return Rejection(why, message, headers=headers)


def stopping() -> Rejection:
    """It does not wait, because the gateway stops: another one may serve it."""
    return Rejection(Reason.SHUTTING_DOWN, "This gateway is shutting down.")
