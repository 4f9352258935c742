"""What a run leaves: one row for each request, and the state of the replicas over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from policies.flow.item import Item

REFUSED: Final = -1
UNKNOWN: Final = -2
"""Stands in place of a replica's index."""


@dataclass(frozen=True, slots=True)
class Served:
    """One request, served or refused. Times are seconds of the run's clock."""

    id: str
    session: str
    tenant: str
    replica: int
    """Index of the replica; REFUSED when none was chosen, UNKNOWN when the client cannot know
    it."""
    arrival_s: float
    first_token_s: float | None
    """When the client got it; None: it got none."""
    finished_s: float
    input_tokens: int
    cached_tokens: int | None
    """Prompt tokens that the engine found cached; None: it does not report them."""
    expected_cached_tokens: float | None
    """Prompt tokens that the picker's index believed to be cached; None: unknown."""
    output_tokens: int
    failed: bool = False
    best_cached_tokens: int | None = None
    """The most prompt tokens that a replica had cached at the decision, or that were found cached
    in the end; None: unknown."""
    repeated_tokens: int | None = None
    """Prompt tokens that some earlier request of the run has asked or was answered, in whole
    blocks: what a cache without limits would hold. None: unknown."""
    predicted_ttft_s: float | None = None
    """By the policy, at the decision; None: it predicts nothing."""
    predicted_tpot_s: float | None = None
    queued_s: float = 0.0
    """How long it waited in the picker, in the end for nothing when it was refused."""

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time of an output token after the first."""
        if self.first_token_s is None or self.output_tokens < 2:
            return None
        return (self.finished_s - self.first_token_s) / (self.output_tokens - 1)

    @property
    def latency_s(self) -> float:
        """From arrival to the end."""
        return self.finished_s - self.arrival_s


@dataclass(frozen=True, slots=True)
class Sample:
    """One replica at one instant."""

    at_s: float
    replica: int
    running: int
    waiting: int
    kv_usage: float


@dataclass(slots=True)
class Outcome:
    """The result of a run."""

    served: list[Served] = field(default_factory=list)
    """In the order of their ends."""
    samples: list[Sample] = field(default_factory=list)
    duration_s: float = 0.0
    preemptions: int = 0
    busy_s: list[float] = field(default_factory=list)
    """For each replica, the time with a step on the accelerator."""
    steps: int = 0
    items: dict[str, Item] = field(default_factory=dict)
    """By request, as the queue had it; of those that waited."""
    gaps: list[tuple[float, int, float]] = field(default_factory=list)
    """From time to time, of each class in which something waits in the picker: when, the class, and
    `FlowQueue.gap`."""
