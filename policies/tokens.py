"""Tokens from bytes, and from chunks of a stream: ratios per model that calibrate themselves from
the usage engines report."""

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

    With other bounds it calibrates another measure of text, such as a tokenizer's own count.

    A ratio of sums weighs requests by their size, which is what an estimate of work needs; a mean
    of ratios would be ruled by short prompts, where the chat template's overhead dominates.
    """

    def __init__(
        self,
        prior_bytes_per_token: float = PRIOR_BYTES_PER_TOKEN,
        *,
        least: float = MIN_BYTES_PER_TOKEN,
        most: float = MAX_BYTES_PER_TOKEN,
        max_models: int = 4_096,
    ) -> None:
        """Raises ValueError for a prior that is not between ``least`` and ``most``."""
        if not least <= prior_bytes_per_token <= most:
            raise ValueError(
                f"prior_bytes_per_token must be {least:g} to {most:g}, got"
                f" {prior_bytes_per_token:g}"
            )
        self._prior = prior_bytes_per_token
        self._least, self._most = least, most
        self._max_models = max_models
        self._sums: dict[str, _Sums] = {}

    def bytes_per_token(self, model: str) -> float:
        """The estimate now, within the bounds; the prior for a model not observed yet."""
        sums = self._sums.get(model)
        if sums is None:
            return self._prior
        return min(self._most, max(self._least, sums.bytes / sums.tokens))

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


class ChunkRatio:
    """Output tokens per chunk of a stream, by model: an engine that is ahead of its reader, or that
    speculates, puts several into one. The same kind of ratio of sums as `TokenRatio`."""

    def __init__(self, *, max_models: int = 4_096) -> None:
        self._max_models = max_models
        self._sums: dict[str, tuple[float, float]] = {}
        """Tokens and chunks."""

    def tokens(self, model: str, chunks: int) -> int:
        """Estimated tokens in that many chunks; as many for a model not observed yet."""
        tokens, counted = self._sums.get(model, (1.0, 1.0))
        return round(chunks * tokens / counted)

    def observe(self, model: str, chunks: int, tokens: int) -> None:
        """Learn from one completed stream: its chunks, and the output tokens reported for it.

        The token that ends an answer has a chunk on some APIs and none on others: one token more
        than chunks says nothing, and neither do chunks without a token.
        """
        if chunks <= 0 or tokens <= 0:
            return
        if model not in self._sums and len(self._sums) >= self._max_models:
            del self._sums[next(iter(self._sums))]
        sums = self._sums.get(model, (PRIOR_WEIGHT_TOKENS, PRIOR_WEIGHT_TOKENS))
        said = max(chunks, tokens - 1)
        self._sums[model] = (DECAY * sums[0] + said, DECAY * sums[1] + chunks)
