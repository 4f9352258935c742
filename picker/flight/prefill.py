"""How fast the endpoints of a pool prefill, learned from times to first token."""

from __future__ import annotations

from operator import add

DECAY = 0.98
"""Weight that remains of everything seen before, at each observation: about the last 50 count."""

MIN_TOKENS_PER_S = 20.0
MAX_TOKENS_PER_S = 2_000_000.0

_PRIOR_TOKENS_PER_S = 8_000.0
"""An 8B model on one recent accelerator."""
_PRIOR_OVERHEAD_S = 0.03
_PRIOR_TOKENS = 2_000.0
"""The prior is two observations, at 0 and at this many tokens, each of weight 1/2, that do not
fade: they decide when prompts are too alike to separate speed from overhead."""


class PrefillSpeed:
    """Least squares of TTFT = overhead + work / speed, exponentially weighted.

    Work is the prefill backlog of the endpoint at dispatch and the request's own uncached tokens.
    Without the overhead (network, one decode step) short prompts would make the pool look slow.
    """

    def __init__(self) -> None:
        prior_s = _PRIOR_OVERHEAD_S + _PRIOR_TOKENS / _PRIOR_TOKENS_PER_S
        points = _moments(0.0, _PRIOR_OVERHEAD_S), _moments(_PRIOR_TOKENS, prior_s)
        self._prior = [(one + other) / 2 for one, other in zip(*points, strict=True)]
        self._seen = [0.0] * 5
        """Plain numbers: for five of them arrays take three times as long."""
        self.overhead_s = _PRIOR_OVERHEAD_S
        self.tokens_per_s = _PRIOR_TOKENS_PER_S

    def observe(self, work_tokens: float, ttft_s: float) -> None:
        """Learn from one first token; times that cannot be true are ignored."""
        if ttft_s <= 0 or work_tokens < 0:
            return
        now = _moments(work_tokens, ttft_s)
        self._seen = [seen * DECAY + more for seen, more in zip(self._seen, now, strict=True)]
        n, x, y, xx, xy = map(add, self._seen, self._prior)
        slope = (xy - x * y / n) / (xx - x * x / n)
        if slope <= 0:  # overhead and noise outweigh the work: charge all time to the work
            slope = y / x
        slope = min(1 / MIN_TOKENS_PER_S, max(1 / MAX_TOKENS_PER_S, slope))
        self.tokens_per_s = 1 / slope
        self.overhead_s = max(0.0, (y - slope * x) / n)

    def prefill_s(self, work_tokens: float) -> float:
        """Time that this much work takes, without the overhead."""
        return work_tokens / self.tokens_per_s


def _moments(work_tokens: float, ttft_s: float) -> tuple[float, float, float, float, float]:
    return 1.0, work_tokens, ttft_s, work_tokens * work_tokens, work_tokens * ttft_s
