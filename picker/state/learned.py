"""What the picker learns from reported usage: how text, streams and answers become tokens."""

from __future__ import annotations

from picker.settings import OutputBound
from policies.limits.estimate import OutputQuantile
from policies.limits.prices import Usage
from policies.ratios import TenantRatios
from policies.tokens import ChunkRatio, TokenRatio


class Learned:
    """Ratios and quantiles by model, and by tenant where money hangs on them."""

    def __init__(self) -> None:
        self.ratio = TokenRatio()
        """Bytes of prompt text for each token, by model: for caches and load, never for money."""
        self.text = TenantRatios(4.0, swing=2.0, dearer=4.0, cheaper=1.25)
        """Units of prompt text (`picker.prompt.measure`) for each token."""
        self.counted = TenantRatios(1.0, swing=1.5, dearer=2.0, cheaper=1.1)
        """A tokenizer's count for each token that the engine reports."""
        self.output = OutputQuantile()
        """Output tokens of requests that declare no maximum."""
        self.chunks = ChunkRatio()
        """Output tokens in each event of a stream."""

    def configure(self, bound: OutputBound) -> None:
        """Other bounds of what is learned about outputs; the rest stays."""
        self.output.configure(
            share=bound.share,
            min_tokens=bound.min_tokens,
            max_tokens=bound.max_tokens,
            prior_tokens=bound.prior_tokens,
        )

    def prompt(
        self,
        tenant: str,
        model: str,
        *,
        text_bytes: int,
        text_units: int,
        counted_tokens: int | None,
        tokens: int,
    ) -> None:
        """The engine reported ``tokens`` for a prompt of text alone."""
        self.ratio.observe(model, text_bytes, tokens)
        self.text.observe(tenant, model, text_units, tokens)
        if counted_tokens is not None:
            self.counted.observe(tenant, model, counted_tokens, tokens)

    def answer(self, tenant: str, model: str, streamed_events: int, usage: Usage) -> None:
        """The engine reported the tokens of a whole answer."""
        self.output.observe(tenant, model, usage.output_tokens)
        self.chunks.observe(
            tenant, model, streamed_events, usage.output_tokens, usage.reasoning_tokens
        )
