"""What one engine has counted since it started."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

_TTFT_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TPOT_BOUNDS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_REQUEST_BOUNDS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip


class Histogram:
    """Observations counted into buckets; `counts` has one more entry than `bounds` (infinity)."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class EngineStats:
    """Totals with the meaning of vLLM's metrics; times are wall time in seconds."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    ttft_s: Histogram = field(default_factory=lambda: Histogram(_TTFT_BOUNDS_S))
    tpot_s: Histogram = field(default_factory=lambda: Histogram(_TPOT_BOUNDS_S))
    e2e_s: Histogram = field(default_factory=lambda: Histogram(_REQUEST_BOUNDS_S))
    queue_s: Histogram = field(default_factory=lambda: Histogram(_REQUEST_BOUNDS_S))
    adapters_seen_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """(running, waiting) adapters, comma-separated, to the Unix time when last so."""
