"""Baselines that look at nothing, at requests in flight, or at the session."""

from __future__ import annotations

import hashlib
import random
from typing import Protocol

import numpy as np

from policies.registry import register
from policies.routing.filters import AdapterServed
from policies.routing.pickers import MaxScore
from policies.routing.types import Floats, Observation, PoolView, Ranking, RoutingRequest, Slots

_ADAPTER_SERVED = AdapterServed()
_MAX_SCORE = MaxScore()


class Baseline(Protocol):
    """A policy given by one score per candidate, the most the best; exact ties at random.

    A request for an adapter goes only where the adapter is served, whatever the formula: peers
    see to that before they score.
    """

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        """One finite score per candidate, in any unit; candidates are never empty."""
        ...

    def chosen(self, request: RoutingRequest, slot: int) -> None:
        """The request goes to ``slot``; for baselines with state of their own."""

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        """At most ``count`` endpoints, best first; empty when nothing fits."""
        candidates = _ADAPTER_SERVED.keep(request, pool, candidates)
        if candidates.size == 0:
            return Ranking(candidates, np.empty(0))
        scores = self.scores(request, pool, candidates, rng)
        ranking = _MAX_SCORE.pick(candidates, scores, count, rng)
        if ranking.slots.size:
            self.chosen(request, int(ranking.slots[0]))
        return ranking

    def observe(self, observation: Observation, now_s: float) -> None:
        """Baselines do not learn."""


def preferred_first(preferred: Slots, candidates: Slots, scores: Floats) -> Floats:
    """``scores`` with those of the ``preferred`` lifted above all others; order within is kept."""
    lift = float(np.ptp(scores)) + 1.0
    return scores + lift * np.isin(candidates, preferred)


@register("policy", "round-robin")
class RoundRobin(Baseline):
    """Each candidate in turn, by slot; requests that may go to few only keep the place."""

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
    """Fewest requests in flight, counted by us the moment they are sent."""

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
    move. The routers that offer it use a hash ring, which differs in which endpoint, not in how
    evenly or how steadily.
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
    """Splitmix64's finaliser (Steele, Lea and Flood, 2014): every bit depends on every other."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
