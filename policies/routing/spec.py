"""A routing policy as a value, and the one way from that value to an instance."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import policies.routing  # noqa: F401 - registers the built-in policies
from policies.registry import PolicyError, build
from policies.routing.types import PoolView, Ranking, RoutingPolicy, RoutingRequest, Slots


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy of the registry by name, with its parameters. Equal specs build equal policies, so
    an instance may live on, with all that it has learned, for as long as its spec is equal."""

    name: str
    params: Mapping[str, object] = field(default_factory=dict, hash=False)
    """JSON data."""

    def build(self) -> RoutingPolicy:
        """A new instance. Raises PolicyError."""
        built = build("policy", self.name, self.params)
        if isinstance(built, RoutingPolicy):
            return built
        rank = getattr(built, "rank", None)
        if not callable(rank):
            raise PolicyError(f"policy {self.name!r} has no rank() method")
        return _Completed(built, rank)


class _Completed(RoutingPolicy):
    """A plugin's policy that has `rank` but lacks other methods; those do nothing."""

    def __init__(self, policy: object, rank: Callable[..., Ranking]) -> None:
        self._rank = rank
        for name in ("observe", "reset", "snapshot", "restore"):
            if hasattr(policy, name):
                setattr(self, name, getattr(policy, name))

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        return self._rank(request, pool, candidates, count, now_s, rng)
