"""A request's way: the list of its steps, and how they are run."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from picker.admission.admission import Admission
from picker.bodies.apart import Apart
from picker.decisions.left_out import Reasons
from picker.flight.flights import Flights
from picker.pipeline.admit import Admit
from picker.pipeline.authorize import Authorize
from picker.pipeline.azure import ReadDeployment
from picker.pipeline.count import Count, Exactly
from picker.pipeline.decide import Decide
from picker.pipeline.decode import Decode
from picker.pipeline.dispatch import Dispatch
from picker.pipeline.doors import (
    AnswerHealth,
    RefuseClosedPaths,
    RefuseManyHeaders,
    RefusePathsOfOtherEngines,
    RefuseWhenDraining,
)
from picker.pipeline.estimate import Estimate
from picker.pipeline.forward import Forward
from picker.pipeline.hand_over import HandOver
from picker.pipeline.hash import Hash
from picker.pipeline.identify import Identify
from picker.pipeline.mutate import Mutate
from picker.pipeline.parse import Parse
from picker.pipeline.recall import Recall
from picker.pipeline.reserve import Reserve
from picker.pipeline.resolve import Resolve
from picker.pipeline.schedule import Schedule
from picker.pipeline.spent import RefuseSpent
from picker.pipeline.tokenize import Tokenize
from picker.prompt.counting import Counting
from picker.request.context import RequestContext
from picker.request.response_ids import ResponseIds
from picker.seams.engine_counts import EngineCounts
from picker.seams.gate import Gate
from picker.seams.limiter import Limiter
from picker.settings import PickerSettings
from picker.state.catalog import Catalog
from picker.state.learned import Learned
from picker.state.pools import Pools


class Step(Protocol):
    """Enriches the request's context, or ends it: with a Rejection, or by setting its answer.

    A step that has to wait returns the rest of its work. Nearly all are done for nearly every
    request when they return, and a coroutine for each of them would cost a request 4 us.
    """

    def __call__(self, context: RequestContext) -> Awaitable[None] | None: ...


Steps = Sequence[tuple[str, Step]]
"""With the name under which each marks its time."""


@dataclass(frozen=True, slots=True)
class Way:
    """Both parts of a request's way."""

    head: Steps
    """At the request's headers."""
    body: Steps
    """With its whole body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the steps work with."""

    picker_id: str
    pools: Pools
    catalog: Catalog
    learned: Learned
    flights: Flights
    admission: Admission
    reasons: Reasons
    gate: Gate
    limiter: Limiter
    counting: Counting
    engine_counts: EngineCounts
    tokenize: Tokenize
    apart: Apart
    is_draining: Callable[[], bool]
    now: Callable[[], float]
    rng: random.Random
    response_ids: ResponseIds
    read: Step | None = None
    """Instead of parsing a body: for a simulator, whose requests have none."""


def way(tools: Tools, settings: PickerSettings) -> Way:
    """The list. What a step takes (a reservation, a place among what is under way) is given back by
    `picker.core` on every exit."""
    exactly = Exactly(tools.engine_counts, tools.pools, tools.now)
    estimate = Estimate(tools.catalog, tools.learned, settings.default_output_tokens)
    schedule = Schedule(
        tools.pools, tools.flights.ledger, tools.admission, tools.reasons, tools.rng, tools.now
    )
    return Way(
        head=(
            ("door", RefuseWhenDraining(tools.is_draining)),
            ("headers", RefuseManyHeaders()),
            ("azure", ReadDeployment()),
            (
                "paths",
                RefuseClosedPaths(settings.pools, settings.passthrough, settings.handed_over),
            ),
            ("health", AnswerHealth(tools.pools.any_candidate)),
            ("identify", Identify(tools.gate)),
            *((("hand over", HandOver(settings.handed_over)),) if settings.handed_over else ()),
        ),
        body=(
            ("spent", RefuseSpent(tools.limiter)),
            ("decode", Decode(settings.max_body_bytes)),
            ("parse", tools.read or Parse(settings.max_body_bytes, settings.caps, tools.apart)),
            ("recall", Recall(tools.pools, tools.response_ids)),
            ("authorize", Authorize()),
            ("resolve", Resolve(tools.catalog, tools.now)),
            ("engine", RefusePathsOfOtherEngines(settings.pools, settings.passthrough)),
            ("count", Count(tools.counting, exactly, tools.learned)),
            ("estimate", estimate),
            ("reserve", Reserve(tools.limiter, exactly, estimate)),
            ("hash", Hash()),
            ("tokenize", tools.tokenize),
            ("schedule", schedule),
            ("admit", Admit(tools.admission, schedule)),
            ("mutate", Mutate(tools.apart)),
            ("forward", Forward(tools.pools)),
            ("dispatch", Dispatch(tools.flights, tools.admission, settings.lease_s)),
            (
                "decide",
                Decide(
                    tools.picker_id,
                    tools.response_ids,
                    report_scores=settings.report_scores,
                    shows_decisions=settings.shows_decisions,
                ),
            ),
        ),
    )


async def run(steps: Steps, context: RequestContext, now: Callable[[], float]) -> None:
    """Take the steps in order, and mark on the context when each was done; stop where one has
    answered the request. Raises Rejection."""
    marks = context.marks
    for name, step in steps:
        rest = step(context)
        if rest is not None:
            await rest
        marks[name] = now()
        if context.answer is not None:
            return
