"""What requests cost a pool in which no tokens are counted: audio, images, paths of engines."""

from __future__ import annotations

from typing import Final

_PRIOR: Final = 500.0
_FADING: Final = 0.1
_MOST_KINDS: Final = 256


class UnmeteredCost:
    """By kind, which is the path: the share of an engine's time that a request took, in the tokens
    of prefill that it could have done meanwhile."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}
        """Those that were seen last come last."""

    def expected(self, kind: str) -> float:
        """Tokens of prefill."""
        return self._means.get(kind, _PRIOR)

    def observe(self, kind: str, *, took_s: float, requests: float, tokens_per_s: float) -> float:
        """A request has ended that an engine served beside others, ``requests`` in all; the engine
        prefills ``tokens_per_s``. Gives what it has cost."""
        cost = took_s / max(1.0, requests) * tokens_per_s
        mean = self._means.pop(kind, None)
        self._means[kind] = cost if mean is None else mean + _FADING * (cost - mean)
        if len(self._means) > _MOST_KINDS:
            del self._means[next(iter(self._means))]
        return cost
