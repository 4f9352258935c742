"""Step: tokens that the request will cost, expected and at most."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Final

from picker.prompt.fields import RequestFields
from picker.prompt.forms import Form, Prompt
from picker.prompt.measure import text_units
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.state.catalog import Catalog
from picker.state.learned import Learned
from policies.limits.prices import MOST, NOTHING, Usage
from policies.limits.types import MAX_AMOUNT

MEDIA_ITEM_TOKENS: Final = 512
"""Assumed for an image or audio clip, whose size in tokens is unknown."""
MAX_OUTPUT_TOKENS: Final = 1_000_000.0
"""A larger bound counts as this much: load is summed in floats, which must come back to 0."""

_GENERATES: Final = frozenset(
    {Form.CHAT, Form.COMPLETIONS, Form.RESPONSES, Form.ANTHROPIC, Form.GENERATE, Form.SGLANG}
)
_ANSWERS_EACH: Final = frozenset({Form.COMPLETIONS, Form.SGLANG, Form.GENERATIVE_SCORE})
"""An answer for each prompt of several."""
_TURNS: Final = 16
"""Contexts that one answer can fill: an engine that calls tools itself adds up its turns."""
_COSTS_NOTHING: Final = ("/tokenize", "/render", "/count_tokens")


class Estimate:
    """Input: text by the tenant's calibrated ratio for the model, of bytes or of what a tokenizer
    counted; token ids exactly. Output: as declared, else as learned; at most the context."""

    def __init__(self, catalog: Catalog, learned: Learned, default_output_tokens: float) -> None:
        """``default_output_tokens``: load that an undeclared output counts as."""
        self._catalog = catalog
        self._learned = learned
        self._default_output_tokens = default_output_tokens

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        prompt, fields = context.prompt, context.fields
        if prompt is None or fields is None:
            return None
        longest = self._catalog.max_model_tokens(context.served_model)
        if longest is not None and prompt.token_ids > longest * len(prompt.sequences):
            raise Rejection(
                Reason.CONTEXT_LENGTH,
                f"The prompt has {prompt.token_ids} tokens; the context of"
                f" {context.served_model!r} is {longest} tokens.",
                param="prompt",
            )
        if context.heavy:
            return self._estimate_heavy(context, prompt, fields, longest)
        context.text_units = text_units(prompt)
        self._estimate(context, prompt, fields, longest)
        return None

    async def _estimate_heavy(
        self, context: RequestContext, prompt: Prompt, fields: RequestFields, longest: int | None
    ) -> None:
        context.text_units = await asyncio.to_thread(text_units, prompt)
        self._estimate(context, prompt, fields, longest)

    def _estimate(
        self, context: RequestContext, prompt: Prompt, fields: RequestFields, longest: int | None
    ) -> None:
        """By the units of its text. ``longest``: the context of the model, tokens."""
        context.prompt_tokens = (
            self._text_tokens(context) + prompt.token_ids + prompt.media_items * MEDIA_ITEM_TOKENS
        )
        declared = fields.max_output_tokens
        if declared is not None and longest is not None:
            declared = min(declared, longest)
        bound = self._default_output_tokens if declared is None else declared
        context.output_tokens = min(float(bound * fields.choices), MAX_OUTPUT_TOKENS)
        answers = fields.choices * (len(prompt.sequences) if context.form in _ANSWERS_EACH else 1)
        context.answers = answers
        context.expected = self._expected(context, prompt, declared, longest, answers)
        if longest is not None:
            most_tokens = longest * _TURNS
            context.possible = Usage(
                min(MOST.input_tokens, most_tokens * len(prompt.sequences)),
                min(MOST.output_tokens, most_tokens * answers),
            )

    def _text_tokens(self, context: RequestContext) -> float:
        tenant, model = context.caller.tenant, context.served_model
        counted = context.counted_tokens
        if counted is None:
            return self._learned.text.tokens(tenant, model, context.text_units)
        return self._learned.counted.tokens(tenant, model, counted)

    def _expected(
        self,
        context: RequestContext,
        prompt: Prompt,
        declared: int | None,
        longest: int | None,
        answers: int,
    ) -> Usage:
        """What is reserved for it."""
        if costs_nothing(context.head.path):
            return NOTHING
        input_tokens = min(MAX_AMOUNT, math.ceil(context.prompt_tokens))
        if context.form is Form.GENERATIVE_SCORE:
            return Usage(input_tokens, len(prompt.sequences))
        if context.form not in _GENERATES:
            return Usage(input_tokens, 0)
        if declared is None:
            declared = self._learned.output.tokens(context.caller.tenant, context.served_model)
            if longest is not None:
                declared = min(declared, longest)
        return Usage(input_tokens, min(MAX_AMOUNT, declared * answers))


def costs_nothing(path: str) -> bool:
    """Whether requests to this path read a prompt and run no model."""
    return path.endswith(_COSTS_NOTHING)
