"""The seam between routing policies and whoever drives them: the picker or the simulator."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.intp]
"""Endpoint slots, shape (k,)."""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(slots=True)
class PoolView:
    """Columns over endpoint slots, each of shape (n,), n = allocated slots.

    Owned and updated in place by the picker or the simulator; policies only read.
    """

    waiting_requests: Floats
    """In the engine's queue, as last scraped."""
    running_requests: Floats
    kv_usage: Floats
    """Share of the KV cache in use, 0 to 1."""
    kv_capacity_tokens: Floats
    """0 = unknown."""
    in_flight_requests: Floats
    """Sent by us and not ended, at decision time."""
    in_flight_prefill_tokens: Floats
    """Ours: uncached prompt tokens believed not to be prefilled yet."""
    in_flight_kv_tokens: Floats
    """Ours: prompt and expected output tokens of the requests in flight."""
    lora_slots: Floats
    """Adapters that the engine can hold at once, 0 = none."""
    lora_active: Floats
    """Adapters running or waiting now."""

    @classmethod
    def zeros(cls, slots: int) -> PoolView:
        """A view of ``slots`` idle endpoints about which nothing is known."""
        return cls(*(np.zeros(slots) for _ in range(9)))


@dataclass(frozen=True, slots=True)
class AdapterView:
    """The LoRA adapter that a request asks for, by slot; each of shape (n,)."""

    served: Bools
    """The replica lists the adapter."""
    running: Bools
    waiting: Bools


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """What a policy may know about the request."""

    prompt_tokens: float
    max_output_tokens: float
    """Expected or declared bound, 0 = unknown."""
    matched_tokens: Floats
    """Longest contiguous cached prefix by slot, tokens, shape (n,)."""
    adapter: AdapterView | None = None
    session_slot: int | None = None
    """Slot that the request's session is bound to."""
    session: str | None = None
    """Key of the session, for policies that hash it."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Endpoints to try, best first; empty when nothing fits."""

    slots: Slots
    scores: Floats
    """Same length and order as ``slots``."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Feedback of one completed request, for policies that learn."""

    slot: int
    prompt_tokens: float
    uncached_tokens: float
    output_tokens: float
    backlog_tokens: float
    """Prefill backlog of the endpoint at dispatch."""
    ttft_s: float | None
    duration_s: float
    ok: bool


@runtime_checkable
class Filter(Protocol):
    """Narrows the candidates."""

    def keep(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Slots:
        """The candidates that may serve the request, in the order given."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Rates the candidates."""

    def score(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Floats:
        """One score in [0, 1] per candidate, 1 the best."""
        ...


@runtime_checkable
class Picker(Protocol):
    """Turns scores into an order."""

    def pick(self, candidates: Slots, scores: Floats, count: int, rng: random.Random) -> Ranking:
        """At most ``count`` different candidates, best first."""
        ...


@runtime_checkable
class RoutingPolicy(Protocol):
    """Ranks the endpoints of a pool for a request."""

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
        ...

    def observe(self, observation: Observation, now_s: float) -> None:
        """Learn from a completed request."""
        ...
