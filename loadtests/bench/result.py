"""What a load generator has seen."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Result:
    """What happened; times in seconds, lists in the order of the answers."""

    answered: int = 0
    seconds: float = 0.0
    """From the first request to the last answer."""
    latencies_s: list[float] = field(default_factory=list)
    """To the last byte."""
    first_bytes_s: list[float] = field(default_factory=list)
    """To the first byte of the body; streams only."""
    events: int = 0
    """Server-sent events."""
    reads: int = 0
    """Pieces in which the bodies of streams arrived."""
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, latency_s: float, first_byte_s: float | None) -> None:
        """A request was answered; ``first_byte_s``: of its body, None unless it is a stream."""
        self.answered += 1
        self.latencies_s.append(latency_s)
        if first_byte_s is not None:
            self.first_bytes_s.append(first_byte_s)
