"""Orders by name, those of plugins among them."""

from __future__ import annotations

from typing import Final

import policies.flow.baselines
import policies.flow.fair  # noqa: F401 - registers it
from policies.flow.order import Order
from policies.registry import PolicyError, build

FAIR: Final = "fair"


def order(name: str) -> Order:
    """A new instance. Raises PolicyError."""
    built = build("order", name)
    if not isinstance(built, Order):
        raise PolicyError(f"order {name!r} lacks a method: it needs rank(), price(), counters()")
    return built
