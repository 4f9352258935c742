"""What a picker reports of its queue to the others, for one pool. Everything is what is true now,
or a sum since a beginning that is named, so that a lost report does no harm once the next one
comes."""

from __future__ import annotations

from msgspec import Struct


class FlowRow(Struct, frozen=True):
    """One flow of a class at the picker."""

    priority: int
    flow: str
    weight: float
    requests: int
    """Waiting; 0: none."""
    tokens: float
    cost: float
    """Of what waits."""
    served: float
    """Price, by weight, of what the picker has given it since ``since``. May become less: what was
    charged too much."""
    since: int
    """Number of the sum; a new one begins at 0."""


class ClassRow(Struct, frozen=True):
    """One class at the picker; sums since the picker began."""

    priority: int
    given: float
    """Cost of what was let go."""
    came: float
    """Cost of what has begun to wait."""


class HeadRow(Struct, frozen=True):
    """What waits at the picker for one endpoint, and which of it goes next."""

    endpoint: int
    """Key of the endpoint."""
    requests: int
    """Waiting for it; 0: none, and the rest means nothing."""
    prefill_tokens: float
    """Of all of these."""
    claims: bool
    """One of them would go if the endpoint had a place."""
    priority: int = 0
    flow: str = ""
    owed: bool = False
    """Its class is owed a turn before higher ones."""
    arrived_s: float = 0.0
    """By the picker's clock."""
    tokens: float = 0.0
    """That the one which goes next would have to prefill."""


class Level(Struct, frozen=True):
    """Of a flow that waits anywhere: how far it is ahead of the one that was served least."""

    priority: int
    flow: str
    ahead: float
    """Price, by weight."""


class QueueDigest(Struct, frozen=True):
    """A report."""

    at_s: float = 0.0
    """When it was made, by the picker's clock."""
    flows: tuple[FlowRow, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    heads: tuple[HeadRow, ...] = ()
    levels: tuple[Level, ...] = ()
    """Only in reports of a part."""
    begun: int = 0
    """Requests that the picker has sent to the pool since it began, whether they waited or not."""
    interval_s: float = 0.0
    """Time in which what has changed at the picker is known to the others."""
    part: int = 0
    parts: int = 0
    """Above 0: the report is whole for the flows and endpoints of part ``part`` of ``parts``; those
    that it does not name have nothing."""


def part_of(key: int, parts: int) -> int:
    """In which part an endpoint, or the hash of a flow, is reported."""
    return key % parts
