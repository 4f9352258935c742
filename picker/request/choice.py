"""One choice among the replicas of a pool, with what was weighed."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from msgspec import Struct

from picker.request.role import Role
from policies.routing.types import Considered, Features, Floats


class Why(StrEnum):
    """Kinds of reasons."""

    DRAINING = "draining"
    UNHEALTHY = "unhealthy"
    """It does not answer, or the data plane could not reach it."""
    SUBSET = "subset"
    """The gateway in front does not allow it."""
    MODEL = "model"
    """It does not list the model."""
    ROLE = "role"
    """It does another part of requests."""
    RESPONSE = "response"
    """Another replica stores the response that the request is about."""
    BREAKER = "breaker"
    """Its circuit breaker is open: it is tried when all others have failed."""
    ADAPTER = "adapter"
    """It has not loaded the LoRA adapter."""
    POLICY = "policy"
    """A filter of the policy."""


class LeftOutReplica(Struct, frozen=True):
    """One of them."""

    endpoint: str
    why: Why
    reason: str
    """For people."""


class LeftOut(Struct, frozen=True):
    """Those of one choice. Decisions within a second share it while nothing has changed."""

    total: int
    replicas: tuple[LeftOutReplica, ...]
    """The first ones."""


class Shadowed(Struct, frozen=True):
    """What the shadow policy made of the same request."""

    policy: str
    endpoint: str = ""
    """What it would have chosen; "" when it chose nothing, or failed."""
    predicted_ttft_s: float | None = None
    predicted_tpot_s: float | None = None
    failure: str = ""
    """What it raised."""


class Choice(Struct, gc=False):
    """One choice among the replicas of a pool."""

    role: Role
    policy: str
    tried: tuple[str, ...]
    """Addresses in the order in which they are tried."""
    chosen: Features
    """What was seen of the first of them."""
    session_endpoint: str
    """Where the request's session is bound to, "" for nowhere."""
    left_out: LeftOut | None = None
    """Replicas that were no candidates; None: all were."""
    predicted_ttft_s: float | None = None
    """Of the first one tried; None, here and below: the policy predicts none."""
    predicted_tpot_s: float | None = None
    candidates: int = 0
    """How many the policy has weighed; where it does not say, how many it was given."""
    endpoints: tuple[str, ...] = ()
    """Addresses of the candidates whose numbers are kept. One may stand twice."""
    weighed: Considered | None = None
    """Their numbers as the policy gave them; here and below a row for each."""
    matched_tokens: Floats | None = None
    backlog_tokens: Floats | None = None
    in_flight_requests: Floats | None = None
    waiting_requests: Floats | None = None
    shadow: Shadowed | None = None

    def rows(self) -> dict[str, dict[str, float]]:
        """The numbers of candidates by address and name; none when the policy has given nothing
        sound."""
        weighed, count = self.weighed, len(self.endpoints)
        if weighed is None:
            return {}
        table = {
            "score": _numbers(weighed.scores, count),
            "predicted_ttft_s": _numbers(weighed.predicted_ttft_s, count),
            "predicted_tpot_s": _numbers(weighed.predicted_tpot_s, count),
            "harm_s": _numbers(weighed.harm_s, count),
            "matched_tokens": _numbers(self.matched_tokens, count),
            "backlog_tokens": _numbers(self.backlog_tokens, count),
            "in_flight_requests": _numbers(self.in_flight_requests, count),
            "waiting_requests": _numbers(self.waiting_requests, count),
        }
        if any(table[name] is None for name in ("score", "matched_tokens", "backlog_tokens")):
            return {}
        return {
            endpoint: {name: column[row] for name, column in table.items() if column is not None}
            for row, endpoint in enumerate(self.endpoints)
        }


def _numbers(column: Floats | None, count: int) -> list[float] | None:
    """Of so many rows; None where there are others."""
    try:
        numbers = np.asarray(column, np.float64)
    except (ValueError, TypeError):
        return None
    found: list[float] | None = numbers.tolist() if numbers.shape == (count,) else None
    return found


def first_of(column: Floats | None) -> float | None:
    """The first number; None where there is none, or what is no time."""
    if column is None:
        return None
    first = float(column.item(0))
    return first if math.isfinite(first) else None
