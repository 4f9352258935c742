"""What a run leaves: one row for each request, and how the replicas fared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

REFUSED: Final = -1
UNKNOWN: Final = -2
"""In place of a replica's index."""


@dataclass(frozen=True, slots=True)
class Served:
    """One request. Times are seconds of the run's clock."""

    id: str
    session: str
    tenant: str
    replica: int
    """Index; REFUSED when none was chosen, UNKNOWN to a client that is not told."""
    arrival_s: float
    first_token_s: float | None
    """At the client; None: none came."""
    finished_s: float
    input_tokens: int
    cached_tokens: int | None
    """Of the input, as the engine found them; None: it does not tell."""
    expected_cached_tokens: float | None
    """As the picker's index believed; None: it is not known."""
    output_tokens: int
    failed: bool = False

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
    """One replica at an instant."""

    at_s: float
    replica: int
    running: int
    waiting: int
    kv_usage: float


@dataclass(slots=True)
class Outcome:
    """A run."""

    served: list[Served] = field(default_factory=list)
    """By their ends."""
    samples: list[Sample] = field(default_factory=list)
    duration_s: float = 0.0
    preemptions: int = 0
    busy_s: list[float] = field(default_factory=list)
    """By replica: time with a step on the accelerator."""
    steps: int = 0
    events: int = 0
    """Of the simulator itself."""
