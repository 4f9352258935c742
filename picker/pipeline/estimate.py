"""Step: how many tokens the request will cost, and the hashes of its prompt."""

from __future__ import annotations

from picker.prompt.blocks import hash_blocks
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.state.catalog import Catalog
from policies.tokens import TokenRatio

MEDIA_ITEM_TOKENS = 512
"""Assumed for an image or audio clip, whose bytes do not tell."""
MAX_OUTPUT_TOKENS = 1_000_000.0
"""A larger bound counts as this much: load is summed in floats, which must come back to 0."""


class Estimate:
    """Text by the model's calibrated ratio, of bytes or of what its tokenizer counted; token ids
    exactly."""

    def __init__(
        self,
        catalog: Catalog,
        ratio: TokenRatio,
        counted: TokenRatio,
        default_output_tokens: float,
    ) -> None:
        """``counted``: a tokenizer's count for each token that the engine reports."""
        self._catalog = catalog
        self._ratio = ratio
        self._counted = counted
        self._default_output_tokens = default_output_tokens

    def __call__(self, context: RequestContext) -> None:
        prompt, fields = context.prompt, context.fields
        if prompt is None or fields is None:
            return
        model, counted = context.served_model, context.counted_tokens
        text_tokens = (
            self._ratio.tokens(model, prompt.text_bytes)
            if counted is None
            else self._counted.tokens(model, counted)
        )
        context.prompt_tokens = (
            text_tokens + prompt.token_ids + prompt.media_items * MEDIA_ITEM_TOKENS
        )
        limit = self._catalog.max_model_tokens(context.served_model)
        bound: float = self._default_output_tokens
        if fields.max_output_tokens is not None:
            bound = (
                fields.max_output_tokens if limit is None else min(fields.max_output_tokens, limit)
            )
        context.output_tokens = min(float(bound * fields.choices), MAX_OUTPUT_TOKENS)
        if limit is not None and prompt.token_ids > limit * len(prompt.sequences):
            raise Rejection(
                Reason.CONTEXT_LENGTH,
                f"The prompt has {prompt.token_ids} tokens; the context of"
                f" {context.served_model!r} is {limit} tokens.",
                param="prompt",
            )
        context.blocks = hash_blocks(
            prompt,
            model=context.served_model,
            adapter=context.adapter,
            cache_salt=fields.cache_salt or "",
        )
