"""Tokens from bytes: a ratio per model that calibrates itself from the usage engines report."""

from __future__ import annotations

from dataclasses import dataclass

PRIOR_BYTES_PER_TOKEN = 4.0
MIN_BYTES_PER_TOKEN = 1.0
MAX_BYTES_PER_TOKEN = 16.0
PRIOR_WEIGHT_TOKENS = 1_000.0
"""The prior counts like this many observed tokens, so that one odd request does not swing it."""
DECAY = 0.98
"""Weight that remains of everything seen before, at each observation: about the last 50 count."""


@dataclass(slots=True)
class _Sums:
    bytes: float
    tokens: float


class TokenRatio:
    """Bytes per token by model: exponentially weighted sum of bytes over that of tokens.

    A ratio of sums weighs requests by their size, which is what an estimate of work needs; a mean
    of ratios would be ruled by short prompts, where the chat template's overhead dominates.
    """

    def __init__(
        self, prior_bytes_per_token: float = PRIOR_BYTES_PER_TOKEN, *, max_models: int = 4_096
    ) -> None:
        if not MIN_BYTES_PER_TOKEN <= prior_bytes_per_token <= MAX_BYTES_PER_TOKEN:
            raise ValueError(
                f"prior_bytes_per_token must be {MIN_BYTES_PER_TOKEN:g} to"
                f" {MAX_BYTES_PER_TOKEN:g}, got {prior_bytes_per_token:g}"
            )
        self._prior = prior_bytes_per_token
        self._max_models = max_models
        self._sums: dict[str, _Sums] = {}

    def bytes_per_token(self, model: str) -> float:
        """The estimate now, between 1 and 16; the prior for a model not observed yet."""
        sums = self._sums.get(model)
        if sums is None:
            return self._prior
        return min(MAX_BYTES_PER_TOKEN, max(MIN_BYTES_PER_TOKEN, sums.bytes / sums.tokens))

    def tokens(self, model: str, text_bytes: float) -> float:
        """Estimated tokens of ``text_bytes`` of prompt text."""
        return text_bytes / self.bytes_per_token(model)

    def observe(self, model: str, text_bytes: float, tokens: float) -> None:
        """Learn from one completed request: its prompt text and the prompt tokens reported for it.

        Only for prompts of text alone: images and token ids say nothing about text. Values that
        cannot be true (nothing reported, empty text) are ignored.
        """
        if text_bytes <= 0 or tokens <= 0:
            return
        sums = self._sums.get(model)
        if sums is None:
            if len(self._sums) >= self._max_models:
                del self._sums[next(iter(self._sums))]
            sums = _Sums(PRIOR_WEIGHT_TOKENS * self._prior, PRIOR_WEIGHT_TOKENS)
            self._sums[model] = sums
        sums.bytes = DECAY * sums.bytes + text_bytes
        sums.tokens = DECAY * sums.tokens + tokens
