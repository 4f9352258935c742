"""Tokens from bytes, and from chunks of a stream: ratios that calibrate themselves from the usage
that engines report."""

from __future__ import annotations

from dataclasses import dataclass

from policies.ratios import TenantRatios

PRIOR_BYTES_PER_TOKEN = 4.0
MIN_BYTES_PER_TOKEN = 1.0
MAX_BYTES_PER_TOKEN = 16.0
PRIOR_WEIGHT_TOKENS = 1_000.0
"""The prior counts as many tokens as this, so that one odd request does not change it much."""
MAX_TOKENS_PER_CHUNK = 16.0
DECAY = 0.98
"""Weight that older observations keep at each new one: about the last 50 count."""


@dataclass(slots=True)
class _Sums:
    bytes: float
    tokens: float


class TokenRatio:
    """Bytes per token by model, over all tenants: an exponentially weighted sum of bytes over that
    of tokens. For caches and load; what tenants are held to goes by `policies.ratios`.

    A ratio of sums weighs requests by their size, as an estimate of work needs it. A mean of ratios
    would be dominated by short prompts, where the chat template is most of the tokens.
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
    """Output tokens per chunk of a stream, by tenant and model. An engine that is ahead of its
    reader, or that speculates, puts several tokens into one chunk."""

    def __init__(self) -> None:
        # Chunks per token: at most 1, and a model's may be anything above its bound.
        self._ratios = TenantRatios(
            1.0,
            swing=MAX_TOKENS_PER_CHUNK,
            dearer=MAX_TOKENS_PER_CHUNK,
            cheaper=1.0,
            half_size_tokens=100.0,
            prior_weight=10.0,
        )

    def tokens(self, tenant: str, model: str, chunks: int) -> int:
        """Estimated tokens in that many chunks; as many for a model not observed yet."""
        return max(chunks, round(self._ratios.tokens(tenant, model, chunks)))

    def observe(
        self, tenant: str, model: str, chunks: int, tokens: int, reasoning_tokens: int = 0
    ) -> None:
        """Learn from one completed stream: its chunks, and the output tokens reported for it; the
        client may not have been shown ``reasoning_tokens`` of them.

        The token that ends an answer has a chunk on some APIs and none on others, so one token more
        than chunks shows nothing. Neither do chunks without a token, or with more than
        `MAX_TOKENS_PER_CHUNK`: the rest was not streamed.
        """
        if chunks <= 0 or tokens <= 0:
            return
        visible = tokens - reasoning_tokens
        # There may be more chunks than tokens besides reasoning.
        shown = max(chunks, (tokens if chunks > visible + 1 else visible) - 1)
        if shown <= chunks * MAX_TOKENS_PER_CHUNK:
            self._ratios.observe(tenant, model, chunks, shown)
