"""What waits for the pools of a picker, for operators."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nlargest
from typing import Final

from msgspec import Struct

from policies.flow.item import Item
from policies.flow.queue import FlowQueue

_MOST_FLOWS: Final = 32
"""Of a class, that are shown one by one."""


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


def sight_of(
    queue: FlowQueue, now_s: float, wait_s: Callable[[Item], float]
) -> tuple[ClassSight, ...]:
    """The classes of a queue. ``wait_s`` predicts how long an item would wait that comes now."""
    return tuple(_class_sight(queue, priority, now_s, wait_s) for priority in queue.classes())


def _class_sight(
    queue: FlowQueue, priority: int, now_s: float, wait_s: Callable[[Item], float]
) -> ClassSight:
    depths = queue.flows(priority)
    named = nlargest(_MOST_FLOWS, depths, key=lambda flow: depths[flow].tokens)
    flows = [
        FlowSight(
            flow=flow,
            requests=depths[flow].requests,
            tokens=depths[flow].tokens,
            oldest_s=now_s - queue.oldest_s(priority, flow),
            wait_s=wait_s(_probe(flow, priority, now_s)),
        )
        for flow in named
    ]
    others = [depths[flow] for flow in depths.keys() - set(named)]
    if others:
        rest = FlowSight(
            flow="",
            requests=sum(depth.requests for depth in others),
            tokens=sum(depth.tokens for depth in others),
            oldest_s=now_s - queue.oldest_s(priority),
            wait_s=wait_s(_probe("", priority, now_s)),
        )
        flows.append(rest)
    return ClassSight(priority, tuple(flows), queue.gap(priority))


def _probe(flow: str, priority: int, now_s: float) -> Item:
    """A request that costs nothing."""
    return Item(
        id="",
        flow=flow,
        user="",
        priority=priority,
        weight=1.0,
        tokens=0.0,
        cost=0.0,
        arrived_s=now_s,
    )
