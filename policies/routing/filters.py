"""Filters: which endpoints may serve a request at all."""

from __future__ import annotations

from dataclasses import dataclass

from policies.registry import register
from policies.routing.bounds import at_least, share
from policies.routing.types import Bools, PoolView, RoutingRequest, Slots


@register("filter", "adapter-served")
@dataclass(frozen=True, slots=True)
class AdapterServed:
    """A request for a LoRA adapter goes only where the adapter is loaded; others go anywhere."""

    def keep(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Slots:
        if request.adapter is None:
            return candidates
        return candidates[request.adapter.served[candidates]]


@register("filter", "max-waiting")
@dataclass(frozen=True, slots=True)
class MaxWaiting:
    """Leaves out endpoints with more than ``limit`` requests in the engine's queue.

    When that would leave none, all stay, unless ``strict``.
    """

    limit: float
    strict: bool = False

    def __post_init__(self) -> None:
        at_least(0, "requests", limit=self.limit)

    def keep(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Slots:
        within = pool.waiting_requests[candidates] <= self.limit
        return _narrowed(candidates, within, strict=self.strict)


@register("filter", "max-kv-usage")
@dataclass(frozen=True, slots=True)
class MaxKvUsage:
    """Leaves out endpoints whose KV cache is used beyond ``limit`` (0 to 1).

    When that would leave none, all stay, unless ``strict``.
    """

    limit: float
    strict: bool = False

    def __post_init__(self) -> None:
        share(limit=self.limit)

    def keep(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Slots:
        within = pool.kv_usage[candidates] <= self.limit
        return _narrowed(candidates, within, strict=self.strict)


def _narrowed(candidates: Slots, within: Bools, *, strict: bool) -> Slots:
    kept = candidates[within]
    return kept if kept.size or strict else candidates
