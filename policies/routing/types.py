"""The seam between routing policies and their drivers: the picker and the simulator."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Slots = NDArray[np.intp]
"""Endpoint slots, shape (k,)."""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(slots=True)
class PoolView:
    """Columns over endpoint slots, each of shape (n,), n = allocated slots.

    The picker or the simulator owns it and updates it in place; policies only read it.
    """

    waiting_requests: Floats
    """In the engine's queue, as last scraped."""
    running_requests: Floats
    """Being served by the engine, as last scraped."""
    kv_usage: Floats
    """Share of the KV cache in use, 0 to 1."""
    kv_capacity_tokens: Floats
    """0 = unknown."""
    in_flight_requests: Floats
    """Sent by us and not ended, at the decision."""
    in_flight_prefill_tokens: Floats
    """Of our requests: uncached prompt tokens believed not to be prefilled yet."""
    in_flight_kv_tokens: Floats
    """Of our requests: prompt and expected output tokens."""
    lora_slots: Floats
    """Adapters that the engine can hold at once, 0 = none."""
    lora_active: Floats
    """Adapters running or waiting now."""
    foreign_requests: Floats
    """In the engine when it was last scraped, beyond those that we had in flight there then."""

    @classmethod
    def zeros(cls, slots: int) -> PoolView:
        """A view of ``slots`` idle endpoints about which nothing is known."""
        return cls(*(np.zeros(slots) for _ in EndpointView._fields))

    def at(self, slot: int) -> EndpointView:
        """The row of one endpoint, as it is now. Less than 1 us."""
        return EndpointView(
            self.waiting_requests.item(slot),
            self.running_requests.item(slot),
            self.kv_usage.item(slot),
            self.kv_capacity_tokens.item(slot),
            self.in_flight_requests.item(slot),
            self.in_flight_prefill_tokens.item(slot),
            self.in_flight_kv_tokens.item(slot),
            self.lora_slots.item(slot),
            self.lora_active.item(slot),
            self.foreign_requests.item(slot),
        )


class EndpointView(NamedTuple):
    """One endpoint's row of a `PoolView`: the same names, in the same order.

    A tuple, because one is made at every decision and a frozen dataclass takes twice as long.
    """

    waiting_requests: float
    running_requests: float
    kv_usage: float
    kv_capacity_tokens: float
    in_flight_requests: float
    in_flight_prefill_tokens: float
    in_flight_kv_tokens: float
    lora_slots: float
    lora_active: float
    foreign_requests: float


class AdapterView(Struct, frozen=True):
    """The LoRA adapter that a request asks for, by slot; each of shape (n,)."""

    served: Bools
    """The replica lists the adapter."""
    running: Bools
    waiting: Bools


class RoutingRequest(Struct, frozen=True):
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
    ttft_objective_s: float = inf
    """The client wants its first token within this time; inf: it did not say."""
    tpot_objective_s: float = inf
    """The client wants each further token within this time; inf: it did not say."""
    prefills: bool = True
    """The endpoint is to prefill the prompt."""
    decodes: bool = True
    """The endpoint is to make the answer, from a prompt that it or another one has prefilled."""


class Features(NamedTuple):
    """What was seen at a decision: of the endpoint chosen, before the request was counted there,
    and of the request. A tuple for the same reason as `EndpointView`."""

    slot: int
    """Slot of the endpoint chosen."""
    endpoint: EndpointView
    prompt_tokens: float
    """As estimated."""
    matched_tokens: float
    """Believed to be cached there, at most the prompt."""
    max_output_tokens: float
    """Expected or declared bound, 0 = unknown."""
    adapter: bool
    """The request asks for a LoRA adapter."""
    adapter_running: bool
    adapter_waiting: bool
    session_bound: bool
    """The request's session is bound to the endpoint."""
    prefills: bool = True
    decodes: bool = True

    @classmethod
    def seen(cls, request: RoutingRequest, pool: PoolView, slot: int) -> Features:
        """Those of the endpoint in ``slot``; call before the request is counted in ``pool``."""
        adapter = request.adapter
        return cls(
            slot,
            pool.at(slot),
            request.prompt_tokens,
            min(request.matched_tokens.item(slot), request.prompt_tokens),
            request.max_output_tokens,
            adapter is not None,
            adapter is not None and adapter.running.item(slot),
            adapter is not None and adapter.waiting.item(slot),
            slot == request.session_slot,
            request.prefills,
            request.decodes,
        )


class Considered(Struct, frozen=True):
    """Every endpoint that a policy weighed for a request: one row each, columns of shape (k,).

    Nobody changes the columns after the decision, so they may be kept. 1,000 endpoints take 56 kB:
    who keeps many decisions keeps the `best` rows only.
    """

    slots: Slots
    scores: Floats
    """The higher the better; those of a `Ranking` are among them."""
    predicted_ttft_s: Floats | None = None
    """None, here and below: the policy does not work it out."""
    predicted_tpot_s: Floats | None = None
    """Of this request, from its second token on."""
    matched_tokens: Floats | None = None
    """Of the prompt, believed to be cached there."""
    backlog_tokens: Floats | None = None
    """Prefill work ahead of the request, that of other clients included."""
    harm_s: Floats | None = None
    """What the request would cost others there, in seconds of waiting for a first token."""

    def best(self, count: int) -> Considered:
        """At most ``count`` rows, the highest score first. 15 us."""
        count = min(count, self.scores.size)
        if count < self.scores.size:
            rows = np.argpartition(-self.scores, count)[:count]
        else:
            rows = np.arange(count)
        rows = rows[np.argsort(-self.scores.take(rows), kind="stable")]
        return Considered(
            self.slots.take(rows),
            self.scores.take(rows),
            *(
                None if column is None else column.take(rows)
                for column in (
                    self.predicted_ttft_s,
                    self.predicted_tpot_s,
                    self.matched_tokens,
                    self.backlog_tokens,
                    self.harm_s,
                )
            ),
        )


class Ranking(Struct, frozen=True):
    """Endpoints to try, best first; empty when nothing fits."""

    slots: Slots
    scores: Floats
    """Same length and order as ``slots``."""
    predicted_ttft_s: Floats | None = None
    """Same length and order as ``slots``; None: the policy predicts nothing."""
    considered: Considered | None = None
    """All candidates, for who explains the ranking; None: the policy does not say."""
    predicted_tpot_s: Floats | None = None
    """Time per token from the second one on; as ``predicted_ttft_s``."""


class Observation(Struct, frozen=True):
    """One completed request, for policies that learn."""

    slot: int
    """The endpoint that served the request. After a fallback it is not ``features.slot``: then the
    features are those of another endpoint than the times."""
    features: Features
    prompt_tokens: float
    """As the engine reported, else as estimated."""
    cached_tokens: float | None
    """Part of the prompt, as the engine reported it; None: it did not."""
    output_tokens: float
    ttft_s: float | None
    """From the request's arrival to the first byte of the body; behind another gateway, from the
    picker's answer. None: no byte came."""
    duration_s: float
    """To the end of the answer, from the same time."""
    ok: bool
    """Whether the answer had status 200; the times of other answers say nothing about the
    engine."""

    @property
    def uncached_tokens(self) -> float:
        """Prompt tokens that had to be prefilled: as the engine reported, else as the picker
        believed."""
        if self.cached_tokens is not None:
            return max(0.0, self.prompt_tokens - self.cached_tokens)
        return self.features.prompt_tokens - self.features.matched_tokens

    @property
    def backlog_tokens(self) -> float:
        """Prefill backlog of the endpoint chosen, at the decision."""
        return self.features.endpoint.in_flight_prefill_tokens


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
class Selector(Protocol):
    """Turns scores into an order of endpoints: a "picker" in the configuration."""

    def pick(self, candidates: Slots, scores: Floats, count: int, rng: random.Random) -> Ranking:
        """At most ``count`` different candidates, best first."""
        ...


@runtime_checkable
class RoutingPolicy(Protocol):
    """Ranks the endpoints of a pool for a request.

    A policy that inherits from this class needs `rank` only: by default it learns nothing. A class
    that does not inherit may leave out the others too (see `policies.routing.spec`).
    """

    @abstractmethod
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

    def observe(self, observation: Observation, now_s: float) -> None:
        """Learn from a completed request."""
        return

    def reset(self, slot: int) -> None:
        """The slot has another endpoint now: forget what was learned about the old one."""
        return

    def snapshot(self) -> Mapping[str, object]:
        """What was learned, as JSON data; {} when nothing was.

        What was learned about single endpoints stands under "slots", by slot written as a string:
        slots do not outlive the process, so whoever keeps a snapshot replaces them by addresses.
        """
        return {}

    def restore(self, snapshot: Mapping[str, object]) -> None:
        """Go on from the snapshot of a policy of the same spec. It may come from an older version,
        or be damaged: what does not fit is ignored, and nothing is raised."""
        return
