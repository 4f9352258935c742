"""What one engine has counted since it started, in terms of vLLM 0.32's metrics."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

_FIRST_TOKEN_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_BOUNDS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_REQUEST_BOUNDS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_STEP_BOUNDS_TOKENS = (1.0, *(2.0**power for power in range(3, 15)))
_PREEMPTION_BOUNDS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)


class Histogram:
    """Observations counted into buckets; `counts` has one more entry than `bounds` (infinity)."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


def _requests_s() -> Histogram:
    return Histogram(_REQUEST_BOUNDS_S)


@dataclass(slots=True)
class EngineStats:
    """Totals with the meaning of vLLM's metrics; times are wall time in seconds."""

    max_model_len: int
    """In tokens; bounds the buckets of the histograms of tokens."""
    prompt_tokens: int = 0
    """Tokens of prompts whose prefill has ended."""
    cached_tokens: int = 0
    """Those of them that were found cached."""
    generation_tokens: int = 0
    prefix_queries: int = 0
    """Tokens looked up in the prefix cache at an admission; not again after a preemption."""
    prefix_hits: int = 0
    preemptions: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    step_tokens: Histogram = field(default_factory=lambda: Histogram(_STEP_BOUNDS_TOKENS))
    first_token_s: Histogram = field(default_factory=lambda: Histogram(_FIRST_TOKEN_BOUNDS_S))
    between_tokens_s: Histogram = field(default_factory=lambda: Histogram(_TOKEN_BOUNDS_S))
    output_token_s: Histogram = field(default_factory=lambda: Histogram(_TOKEN_BOUNDS_S))
    """Mean time per output token of a request."""
    whole_s: Histogram = field(default_factory=_requests_s)
    queue_s: Histogram = field(default_factory=_requests_s)
    prefill_s: Histogram = field(default_factory=_requests_s)
    decode_s: Histogram = field(default_factory=_requests_s)
    inference_s: Histogram = field(default_factory=_requests_s)
    request_preemptions: Histogram = field(default_factory=lambda: Histogram(_PREEMPTION_BOUNDS))
    request_prompt_tokens: Histogram = field(init=False)
    request_computed_tokens: Histogram = field(init=False)
    request_generation_tokens: Histogram = field(init=False)
    request_max_tokens: Histogram = field(init=False)
    adapters_seen_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """By (running, waiting) adapters, comma-separated: the Unix time when this was last so."""

    def __post_init__(self) -> None:
        bounds = _token_bounds(self.max_model_len)
        self.request_prompt_tokens = Histogram(bounds)
        self.request_computed_tokens = Histogram(bounds)
        self.request_generation_tokens = Histogram(bounds)
        self.request_max_tokens = Histogram(bounds)


def _token_bounds(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, ... up to ``most``."""
    bounds = [float(digit * 10**power) for power in range(len(str(most))) for digit in (1, 2, 5)]
    return tuple(bound for bound in bounds if bound <= most)
