"""What an output token is worth in tokens of prefill, learned for each pool."""

from __future__ import annotations

from typing import Final

_PRIOR: Final = 3.0
_LEAST: Final = 0.25
_MOST: Final = 100.0
_FADING: Final = 0.02


class OutputWorth:
    """An engine that decodes for ``n`` requests at a time spends on each output token the n-th part
    of a step; on a token of prefill, what the prefill's speed says."""

    def __init__(self) -> None:
        self.tokens = _PRIOR

    def observe(self, *, tpot_s: float, requests: float, tokens_per_s: float) -> None:
        """A request was decoded at ``tpot_s`` seconds a token beside others, ``requests`` in all;
        the engine prefills ``tokens_per_s``."""
        if tpot_s <= 0 or requests < 1:
            return
        seen = min(_MOST, max(_LEAST, tpot_s / requests * tokens_per_s))
        self.tokens += _FADING * (seen - self.tokens)
