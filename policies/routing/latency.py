"""What requests take in a pool: time to first token and time per token, by endpoint.

    first token = c0 + c1 work + c2 pairs + c3 requests
    each other  = d0 + d1 requests + d2 context

``work`` are the tokens to prefill, the request's own and those before it. ``pairs`` (millions) are
the request's own tokens to prefill, each times the context that it attends to. ``requests`` decode
at the endpoint, ``context`` are their KV tokens. All is taken as it was believed at the decision,
since that is what the next decision will have. An endpoint that is slower than its pool takes as
many times as long for everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Final, NamedTuple

import numpy as np

from policies.routing.fit import QuantileFit
from policies.routing.pace import Paces
from policies.routing.types import Floats, Observation, RoutingRequest

_MILLION: Final = 1e6
_WHOLE_S: Final = 0.0005
"""Seconds a token: what comes faster than that did not stream, and its first byte is its end."""
_LEAST_OBJECTIVE_S: Final = 1e-6
"""Shorter times are all alike out of reach."""
_FEW: Final = 4.0
"""Output tokens from which a time per token can be told."""
_FASTEST_S: Final = 1 / 2_000_000
"""A token of prefill, at the least: costs that are all 0 would order nothing."""

# An 8B model on one recent accelerator.
_FIRST_PRIOR: Final = (
    (1.0, 0.0, 0.0, 0.0, 0.03),
    (1.0, 2_000.0, 0.0, 0.0, 0.195),
    (1.0, 2_000.0, 2.0, 0.0, 0.2),
    (1.0, 0.0, 0.0, 50.0, 0.05),
)
_EACH_PRIOR: Final = (
    (1.0, 1.0, 1_000.0, 0.015),
    (1.0, 100.0, 100_000.0, 0.035),
    (1.0, 100.0, 0.0, 0.03),
)


class First(NamedTuple):
    """Coefficients of the time to first token."""

    base_s: float
    token_s: float
    """Of work."""
    pairs_s: float
    request_s: float


class Each(NamedTuple):
    """Coefficients of the time per token from the second one on."""

    base_s: float
    request_s: float
    context_s: float


class Latencies:
    """Learns from requests that have ended."""

    def __init__(self) -> None:
        self._first_fit = QuantileFit(_FIRST_PRIOR, quantile=0.5)
        self._each_fit = QuantileFit(_EACH_PRIOR, quantile=0.5)
        self._whole_fit = QuantileFit(_whole_prior(), quantile=0.5)
        """Of answers that come at once: the terms of the first token, and those of the others times
        their number."""
        self._streaming = 0.0
        """More of the last answers streamed than not when over 0, and fewer when under."""
        self.first_paces, self.each_paces = Paces(), Paces()
        self._take_over()

    @property
    def prefill_s(self) -> float:
        """Seconds a token of work."""
        return max(self.first.token_s, _FASTEST_S)

    @property
    def crowding_s(self) -> float:
        """By which one more request makes each token of the others later."""
        return max(self.each.request_s, _FASTEST_S)

    def prefills_s(self, prompt_tokens: float, uncached: Floats) -> Floats:
        """Seconds of prefills of the usual pace; ``uncached``: tokens of the prompt, any shape."""
        pairs_s = self.first.pairs_s / _MILLION
        return uncached * ((self.prefill_s + pairs_s * prompt_tokens) - (0.5 * pairs_s) * uncached)

    def overhead_s(self, requests: Floats) -> Floats:
        """What the usual time to first token is without any work."""
        return self.first.base_s + self.first.request_s * requests

    def token_s(self, requests: Floats, context: Floats) -> Floats:
        """Usual time per token of one more request."""
        each = self.each
        return (
            (each.base_s + self.crowding_s) + self.crowding_s * requests + each.context_s * context
        )

    def late(self, request: RoutingRequest, ttft_s: Floats, tpot_s: Floats) -> Floats:
        """By which share of the request's objectives it is likely to miss them; 0: not at all.
        Predictions count as longer by their usual error."""
        ttft_s = ttft_s * exp(self.first_paces.error)
        tpot_s = tpot_s * exp(self.each_paces.error)
        ttft_late = ttft_s / max(request.ttft_objective_s, _LEAST_OBJECTIVE_S) - 1.0
        tpot_late = tpot_s / max(request.tpot_objective_s, _LEAST_OBJECTIVE_S) - 1.0
        return np.maximum(ttft_late, 0.0) + np.maximum(tpot_late, 0.0)

    def observe(self, seen: Observation, ttft_s: float) -> bool:
        """Learn from a request that has ended well and had its first byte after ``ttft_s``; whether
        that was its first token, and not its whole answer."""
        features, tokens = seen.features, seen.output_tokens
        endpoint = features.endpoint
        requests = endpoint.in_flight_requests + endpoint.foreign_requests
        uncached = features.prompt_tokens - features.matched_tokens
        pairs = uncached * (features.prompt_tokens - uncached / 2) / _MILLION
        first = (1.0, seen.backlog_tokens + uncached, pairs, requests)
        each = (1.0, requests + 1.0, endpoint.in_flight_kv_tokens)
        each_s = (seen.duration_s - ttft_s) / max(1.0, tokens - 1)
        streamed = tokens <= _FEW or each_s >= _WHOLE_S
        self._streaming += 0.02 * ((1.0 if streamed else -1.0) - self._streaming)
        slot, fitted = seen.slot, False
        if streamed:
            if features.prefills:
                pace = self.first_paces.of(slot)
                self.first_paces.observe(slot, ttft_s, _sum(self.first, first))
                fitted = self._first_fit.observe(first, ttft_s / pace)
            if features.decodes and tokens > _FEW:
                pace = self.each_paces.of(slot)
                self.each_paces.observe(slot, each_s, _sum(self.each, each))
                fitted |= self._each_fit.observe(each, each_s / pace)
        elif features.prefills and features.decodes:
            usual_s = _sum(self.first, first) + tokens * _sum(self.each, each)
            pace = self.each_paces.of(slot)
            for paces in (self.first_paces, self.each_paces):
                paces.observe(slot, seen.duration_s, usual_s)
            whole = (*first, *(tokens * term for term in each))
            fitted = self._whole_fit.observe(whole, seen.duration_s / pace)
        if fitted:
            self.first_paces.center()
            self.each_paces.center()
            self._take_over()
        return streamed

    def reset(self, slot: int) -> None:
        """Another endpoint is in the slot."""
        self.first_paces.reset(slot)
        self.each_paces.reset(slot)

    def snapshot(self) -> dict[str, object]:
        """As JSON data, with paces under "slots"."""
        first, each = self.first_paces.snapshot(), self.each_paces.snapshot()
        slots: dict[str, dict[str, float]] = {slot: {} for slot in (*first, *each)}
        for name, paces in (("first", first), ("each", each)):
            for slot, pace in paces.items():
                slots[slot][name] = pace
        return {"first": list(self.first), "each": list(self.each), "slots": slots}

    def restore(self, snapshot: Mapping[str, object]) -> None:
        """Begin with what fits of a `snapshot`."""
        for name, fit in (("first", self._first_fit), ("each", self._each_fit)):
            match snapshot.get(name):
                case list(found) if all(isinstance(one, int | float) for one in found):
                    fit.begin_with([float(one) for one in found])
        slots = snapshot.get("slots")
        for slot, paces in slots.items() if isinstance(slots, dict) else ():
            if isinstance(paces, dict):
                self.first_paces.restore(slot, paces.get("first"))
                self.each_paces.restore(slot, paces.get("each"))
        self._take_over()

    def _take_over(self) -> None:
        if self._streaming < 0 and self._whole_fit.seen:
            found = self._whole_fit.coefficients
            self.first, self.each = First(*found[:4]), Each(*found[4:])
        else:
            self.first = First(*self._first_fit.coefficients)
            self.each = Each(*self._each_fit.coefficients)


def _whole_prior() -> list[tuple[float, ...]]:
    """What `_FIRST_PRIOR` and `_EACH_PRIOR` say of whole answers: of one token, and of 100."""
    base = _FIRST_PRIOR[0]
    return [
        *((*row[:-1], 0.0, 0.0, 0.0, row[-1]) for row in _FIRST_PRIOR),
        *(
            (*base[:-1], *(100.0 * term for term in each[:-1]), base[-1] + 100.0 * each[-1])
            for each in _EACH_PRIOR
        ),
    ]


def _sum(coefficients: tuple[float, ...], terms: tuple[float, ...]) -> float:
    """Seconds, over 0."""
    seconds = 0.0
    for coefficient, term in zip(coefficients, terms, strict=True):
        seconds += coefficient * term
    return max(1e-4, seconds)
