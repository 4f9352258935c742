"""How long answers will be: learned for each flow."""

from __future__ import annotations

from typing import Final

_MOST_FLOWS: Final = 4096
_PRIOR: Final = 256.0
_PRIOR_ANSWERS: Final = 20
"""Answers as which what is expected before weighs: short answers end first, so the first ones of a
flow would make it look cheaper than others."""
_ANSWERS: Final = 200
"""Answers that count: older ones fade."""


class Expectation:
    """Clients state the most that they take, and few answers are so long. What a flow is charged
    too much at first it gets back at the end of an answer, and waits for until then: so the charge
    should be about right on average, and alike for flows that state much and flows that do not."""

    def __init__(self) -> None:
        self._all = _Mean(_PRIOR)
        self._by_flow: dict[str, _Mean] = {}
        """Those that were seen last come last."""

    def __len__(self) -> int:
        return len(self._by_flow)

    def tokens(self, flow: str, stated: float) -> float:
        """Expected output of a request of a flow that states so many tokens as the most."""
        return min(stated, self._by_flow.get(flow, self._all).value)

    def observe(self, flow: str, output_tokens: float) -> None:
        """An answer has ended."""
        mean = self._by_flow.pop(flow, None) or _Mean(self._all.value)
        self._by_flow[flow] = mean
        mean.observe(output_tokens)
        self._all.observe(output_tokens)
        if len(self._by_flow) > _MOST_FLOWS:
            del self._by_flow[next(iter(self._by_flow))]


class _Mean:
    """Of what was expected before and all that was seen; fading when that is much."""

    __slots__ = ("_seen", "value")

    def __init__(self, prior: float) -> None:
        self.value = prior
        self._seen = _PRIOR_ANSWERS

    def observe(self, value: float) -> None:
        self._seen = min(_ANSWERS, self._seen + 1)
        self.value += (value - self.value) / self._seen
