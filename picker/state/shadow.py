"""A policy that is asked about live requests beside the one that decides; nothing is sent to what
it chooses."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct

from picker.request.choice import Choice, Shadowed, first_of
from picker.seams.background import Background
from picker.state.endpoints import PoolState
from policies.routing.spec import PolicySpec
from policies.routing.types import (
    AdapterView,
    EndpointView,
    Observation,
    PoolView,
    RoutingPolicy,
    RoutingRequest,
    Slots,
)

log = logging.getLogger(__name__)

_MAX_FAILURE: Final = 200
_MAX_RECENT: Final = 10_000
_OBSERVATION_BYTES: Final = 1_000
_ROW_BYTES: Final = 8 * (len(EndpointView._fields) + 2)


class ShadowCounts(Struct):
    """What has come of a shadow's rankings since it began."""

    agreed: int = 0
    differed: int = 0
    nothing: int = 0
    """It found no replica that fits."""
    failed: int = 0
    """It raised, at a ranking or when it was to learn."""
    skipped: int = 0
    """It was not asked, or not told, because it is too slow."""
    last_failure: str = ""


class Expected(Struct, frozen=True):
    """What both policies expect of one request."""

    model: str
    ttft_s: float | None
    shadow_ttft_s: float | None


class Shadow:
    """Of one pool. It sees copies of what the deciding policy saw, in the background, so that
    neither what it raises nor how long it takes can reach a request.

    It learns from the requests that really ran, and so never from what its own choices would have
    led to.
    """

    def __init__(self, spec: PolicySpec, background: Background) -> None:
        self.spec = spec
        self.counts = ShadowCounts()
        self._background = background
        self._policy: RoutingPolicy | None = None
        self._rng = random.Random()  # noqa: S311 - its own, so that it changes no other's draws
        self._expected: deque[Expected] = deque(maxlen=_MAX_RECENT)

    def take_expected(self) -> list[Expected]:
        """What was expected of requests since this was last asked for."""
        taken = []
        while self._expected:
            taken.append(self._expected.popleft())
        return taken

    def consider(
        self,
        choice: Choice,
        request: RoutingRequest,
        state: PoolState,
        candidates: Slots,
        count: int,
        now_s: float,
        model: str,
    ) -> None:
        """Rank what ``choice`` was made from, and put the outcome into it later."""
        view, adapter = state.view, request.adapter
        asked = RoutingRequest(
            request.prompt_tokens,
            request.max_output_tokens,
            request.matched_tokens.copy(),
            None
            if adapter is None
            else AdapterView(adapter.served.copy(), adapter.running.copy(), adapter.waiting.copy()),
            request.session_slot,
            request.session,
        )
        seen = PoolView(*[getattr(view, name).copy() for name in EndpointView._fields])
        job = partial(
            self._rank, choice, asked, seen, state, candidates.copy(), count, now_s, model
        )
        if not self._background.submit(job, state.slots * _ROW_BYTES):
            self.counts.skipped += 1

    def observe(self, observation: Observation, now_s: float) -> None:
        """Learn from a request that has ended."""

        def job() -> None:
            self._try(lambda policy: policy.observe(observation, now_s))

        if not self._background.submit(job, _OBSERVATION_BYTES):
            self.counts.skipped += 1

    def reset(self, slot: int) -> None:
        """The slot has another endpoint now."""

        def job() -> None:
            self._try(lambda policy: policy.reset(slot))

        self._background.submit(job)

    # -- in the background

    def _rank(
        self,
        choice: Choice,
        request: RoutingRequest,
        view: PoolView,
        state: PoolState,
        candidates: Slots,
        count: int,
        now_s: float,
        model: str,
    ) -> None:
        made: list[Shadowed] = []

        def rank(policy: RoutingPolicy) -> None:
            ranking = policy.rank(request, view, candidates, count, now_s, self._rng)
            if ranking.slots.size == 0:
                made.append(Shadowed(self.spec.name))
                return
            (endpoint,) = state.addresses_of(ranking.slots[:1])
            ttft_s = first_of(ranking.predicted_ttft_s)
            tpot_s = first_of(ranking.predicted_tpot_s)
            made.append(Shadowed(self.spec.name, endpoint, ttft_s, tpot_s))

        failure = self._try(rank)
        shadow = made[0] if made else Shadowed(self.spec.name, failure=failure)
        choice.shadow = shadow
        counts = self.counts
        if shadow.endpoint:
            if shadow.endpoint == choice.tried[0]:
                counts.agreed += 1
            else:
                counts.differed += 1
            self._expected.append(Expected(model, choice.predicted_ttft_s, shadow.predicted_ttft_s))
        elif made:
            counts.nothing += 1

    def _try(self, ask: Callable[[RoutingPolicy], None]) -> str:
        """What it raised, "" for nothing."""
        try:
            if self._policy is None:
                self._policy = self.spec.build()
            ask(self._policy)
        except BaseException as error:  # somebody else's policy may even ask to exit
            counts = self.counts
            counts.failed += 1
            counts.last_failure = f"{type(error).__name__}: {error}"[:_MAX_FAILURE]
            if counts.failed & (counts.failed - 1) == 0:  # 1, 2, 4, 8, ...
                log.warning(
                    "shadow policy %s failed, %d times by now",
                    *(self.spec.name, counts.failed),
                    exc_info=error,
                )
            return counts.last_failure
        return ""
