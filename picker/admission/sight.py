"""What waits for the pools of a picker, for operators."""

from __future__ import annotations

from msgspec import Struct


class FlowSight(Struct, frozen=True):
    """One flow of a class: a tenant, or a part of one."""

    flow: str
    """"": all those that have less waiting than the ones that are named."""
    requests: int
    tokens: float
    """Of prompts and of expected output."""
    oldest_s: float
    """How long the request waits that has waited longest."""
    wait_s: float
    """How long one more request would wait."""


class ClassSight(Struct, frozen=True):
    """One class in which something waits."""

    priority: int
    flows: tuple[FlowSight, ...]
    """Those with the most tokens waiting come first."""
    gap: float
    """By how much the flow that was served most is ahead of the one that was served least, tokens
    of prefill by weight: see `Item.cost`."""


class PoolSight(Struct, frozen=True):
    """The queue of one pool."""

    pool: str
    saturation: float
    """Share of the endpoints that could not begin one more request, 0 to 1."""
    classes: tuple[ClassSight, ...] = ()
    """The highest first."""
