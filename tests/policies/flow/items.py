"""Items for the tests of a queue."""

from __future__ import annotations

from itertools import count
from math import inf

from policies.flow.item import Item

_IDS = count()


def item(
    flow: str = "a",
    cost: float = 100.0,
    *,
    user: str = "",
    priority: int = 0,
    weight: float = 1.0,
    arrived_s: float = 0.0,
    expires_s: float = inf,
    due_s: float = inf,
) -> Item:
    """One that no other test has."""
    return Item(
        id=f"{flow}-{next(_IDS)}",
        flow=flow,
        user=user,
        priority=priority,
        weight=weight,
        tokens=cost,
        cost=cost,
        arrived_s=arrived_s,
        expires_s=expires_s,
        due_s=due_s,
    )
