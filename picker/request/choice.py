"""One choice among the replicas of a pool, with what was weighed."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

import numpy as np
from msgspec import Struct

from picker.request.role import Role
from policies.routing.types import Features, Floats


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


TTFT: Final = 1
TPOT: Final = 2
HARM: Final = 4
"""Flags of the numbers that a policy may leave out."""
_OPTIONAL: Final = {TTFT: "predicted_ttft_s", TPOT: "predicted_tpot_s", HARM: "harm_s"}
_ALWAYS: Final = ("matched_tokens", "backlog_tokens", "in_flight_requests", "waiting_requests")


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
    left_out: LeftOut | None
    """Replicas that were no candidates; None: all were."""
    predicted_ttft_s: float | None = None
    """Of the first one tried; None, here and below: the policy predicts none."""
    predicted_tpot_s: float | None = None
    candidates: int = 0
    """How many the policy has weighed."""
    endpoints: tuple[str, ...] = ()
    """Addresses of the candidates whose numbers are kept. One may stand twice."""
    given: int = 0
    """Flags of the numbers that the policy has not left out."""
    cells: bytes = b""
    """The numbers, float32, shape (numbers, endpoints)."""
    shadow: Shadowed | None = None

    def rows(self) -> dict[str, dict[str, float]]:
        """The numbers of candidates by address and name."""
        given = [name for flag, name in _OPTIONAL.items() if self.given & flag]
        names = ("score", *given, *_ALWAYS)
        table = np.frombuffer(self.cells, np.float32).reshape(-1, len(self.endpoints) or 1)
        return {
            endpoint: dict(zip(names, row, strict=True))
            for endpoint, row in zip(self.endpoints, table.T.tolist(), strict=False)
        }


def first_of(column: Floats | None) -> float | None:
    """The first number; None where there is none, or what is no time."""
    if column is None:
        return None
    first = float(column.item(0))
    return first if math.isfinite(first) else None
