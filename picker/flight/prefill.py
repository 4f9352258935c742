"""How fast the endpoints of a pool prefill, learned from times to first token."""

from __future__ import annotations

from typing import Final

from policies.routing.fit import QuantileFit

MIN_TOKENS_PER_S: Final = 20.0
MAX_TOKENS_PER_S: Final = 20_000_000.0
"""More than any engine does; mocks that answer at once come near to it, and are not to be queued
for."""

_PRIOR: Final = ((1.0, 0.0, 0.03), (1.0, 2_000.0, 0.28))
"""One, work in tokens, and seconds: an 8B model on one recent accelerator. They decide when prompts
are too alike to separate speed from overhead."""
_QUANTILE: Final = 0.3
"""Low, because waiting that the picker does not see makes times longer and never shorter."""

_ENOUGH: Final = 8


class PrefillSpeed:
    """A line TTFT = overhead + work / speed under most of what was seen of late.

    Work is the prefill backlog of the endpoint at dispatch and the request's own uncached tokens.
    Without the overhead (network, one decode step) short prompts would make the pool look slow.
    """

    def __init__(self) -> None:
        self._line = QuantileFit(_PRIOR, quantile=_QUANTILE)
        self._seen = 0

    def observe(self, work_tokens: float, ttft_s: float) -> None:
        """Learn from one first token; times that cannot be true are ignored."""
        if ttft_s > 0 and work_tokens >= 0:
            self._line.observe((1.0, work_tokens), ttft_s)
            self._seen += 1

    @property
    def known(self) -> bool:
        """Something was seen, so that it is more than a guess."""
        return self._seen >= _ENOUGH

    @property
    def overhead_s(self) -> float:
        """Time that no work explains."""
        return self._line.coefficients[0]

    @property
    def tokens_per_s(self) -> float:
        """Prefill speed of an endpoint."""
        slope = self._line.coefficients[1]
        return min(MAX_TOKENS_PER_S, max(MIN_TOKENS_PER_S, 1 / slope if slope > 0 else 1e9))

    def prefill_s(self, work_tokens: float) -> float:
        """Time that this much work takes, without the overhead."""
        return work_tokens / self.tokens_per_s
