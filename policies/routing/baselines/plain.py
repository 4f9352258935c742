"""Plain baselines: they look at nothing, at requests in flight, or at the session."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from policies.registry import register
from policies.routing.baselines.baseline import Baseline, preferred_first
from policies.routing.types import Floats, PoolView, RoutingRequest, Slots


@register("policy", "round-robin")
class RoundRobin(Baseline):
    """Each candidate in turn, by slot; the turn goes on from the slot chosen last."""

    def __init__(self) -> None:
        self._last = -1

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        slots = pool.in_flight_requests.size
        distance = (candidates - self._last - 1) % slots
        return -distance.astype(np.float64)

    def chosen(self, request: RoutingRequest, slot: int) -> None:
        self._last = slot


@register("policy", "random")
class Random(Baseline):
    """Any candidate, each as likely as the others."""

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        return np.zeros(candidates.size)


@register("policy", "least-requests")
class LeastRequests(Baseline):
    """Fewest requests in flight; we count a request at the moment it is sent."""

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        return -pool.in_flight_requests.take(candidates)


@register("policy", "power-of-two")
class PowerOfTwo(Baseline):
    """Of two different candidates drawn at random, the one with fewer requests in flight
    (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001)."""

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        drawn = rng.sample(range(candidates.size), min(2, candidates.size))
        scores = -pool.in_flight_requests.take(candidates)
        return preferred_first(candidates.take(drawn), candidates, scores)


@register("policy", "session-hash")
class SessionHash(Baseline):
    """The endpoint that the session hashes to; without a session, fewest requests in flight.

    Rendezvous hashing (Thaler and Ravishankar, 1998): when an endpoint goes, only its own sessions
    move. The routers that offer this policy use a hash ring: it chooses other endpoints, but it
    spreads sessions as evenly and moves as few.
    """

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        if not request.session:
            return -pool.in_flight_requests.take(candidates)
        digest = hashlib.blake2b(request.session.encode("utf-8", "surrogatepass"), digest_size=8)
        key = np.uint64(int.from_bytes(digest.digest(), "little"))
        weights = _mixed(key ^ _mixed(candidates.astype(np.uint64)))
        # A double holds 53 bits.
        return (weights >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(values: np.typing.NDArray[np.uint64]) -> np.typing.NDArray[np.uint64]:
    """Splitmix64's finaliser (Steele, Lea and Flood, 2014): every bit of the result depends
    on every bit of the value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
