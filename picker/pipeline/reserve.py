"""Step: what the request may cost is reserved in all of its tenant's limits, or in none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from picker.prompt.fields import RequestFields
from picker.prompt.forms import Form, Prompt
from picker.request.context import RequestContext
from picker.request.rate_headers import rate_headers, refusal
from picker.request.rejection import Reason, Rejection
from picker.seams.limiter import Limiter, LimitsUnavailable
from picker.state.catalog import Catalog
from policies.limits.estimate import OutputQuantile
from policies.limits.fit import fitted
from policies.limits.plan import Subject
from policies.limits.prices import MOST, Usage
from policies.limits.types import MAX_AMOUNT
from policies.limits.verdict import Denied

_GENERATES: Final = frozenset(
    {Form.CHAT, Form.COMPLETIONS, Form.RESPONSES, Form.ANTHROPIC, Form.GENERATE, Form.SGLANG}
)
_ANSWERS_EACH: Final = frozenset({Form.COMPLETIONS, Form.SGLANG, Form.GENERATIVE_SCORE})
"""An answer for each prompt of several."""
_TURNS: Final = 16
"""Contexts that one answer can fill: an engine that calls tools itself adds up its turns."""
_COSTS_NOTHING: Final = ("/tokenize", "/render", "/count_tokens")
"""Paths that read a prompt and run no model."""


class Reserve:
    """Input as estimated, output as declared, else as learned; never more than the context."""

    def __init__(
        self,
        catalog: Catalog,
        output: OutputQuantile,
        *,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._output = output
        self._wall_s = wall_s

    async def __call__(self, context: RequestContext, limiter: Limiter) -> None:
        context.expected, context.possible = self._expected(context), self._possible(context)
        subject = self._subject(context)
        try:
            verdict = await limiter.reserve(
                context.id, context.caller, subject, context.expected, guessed=_is_guess(context)
            )
        except LimitsUnavailable as error:
            raise Rejection(
                Reason.LIMITS_UNAVAILABLE,
                "The limits of this tenant cannot be checked just now; try again shortly.",
                headers=(("retry-after", "1"),),
            ) from error
        if isinstance(verdict, Denied):
            meters = context.caller.policy.meters(subject)
            if _is_guess(context):
                context.expected = fitted(meters, context.expected)
            raise refusal(
                verdict,
                {meter.bucket.key: meter.amount(context.expected) for meter in meters},
                anthropic=context.anthropic,
                wall_s=self._wall_s(),
            )
        context.grant = verdict
        if verdict is not None:
            context.expected = verdict.expected
        if verdict is not None and verdict.standings:
            context.response_headers = rate_headers(
                verdict.standings, anthropic=context.anthropic, wall_s=self._wall_s()
            )

    def _subject(self, context: RequestContext) -> Subject:
        caller = context.caller
        return Subject(
            tenant=caller.tenant,
            key=caller.line,
            user=context.user,
            model=context.billed_model,
            pool=context.pool.name if context.pool is not None else "",
        )

    def _expected(self, context: RequestContext) -> Usage:
        prompt, fields = context.prompt, context.fields
        if prompt is None or fields is None or context.head.path.endswith(_COSTS_NOTHING):
            return _NOTHING
        input_tokens = min(MAX_AMOUNT, math.ceil(context.prompt_tokens))
        if context.form is Form.GENERATIVE_SCORE:
            return Usage(input_tokens, len(prompt.sequences))
        if context.form not in _GENERATES:
            return Usage(input_tokens, 0)
        bound = fields.max_output_tokens
        if bound is None:
            bound = self._output.tokens(context.caller.tenant, context.served_model)
        longest = self._catalog.max_model_tokens(context.served_model)
        if longest is not None:
            bound = min(bound, longest)
        return Usage(input_tokens, min(MAX_AMOUNT, bound * _answers(context.form, fields, prompt)))

    def _possible(self, context: RequestContext) -> Usage:
        prompt, fields = context.prompt, context.fields
        longest = self._catalog.max_model_tokens(context.served_model)
        if prompt is None or fields is None or longest is None:
            return MOST
        most_tokens = longest * _TURNS
        return Usage(
            min(MOST.input_tokens, most_tokens * len(prompt.sequences)),
            min(MOST.output_tokens, most_tokens * _answers(context.form, fields, prompt)),
        )


def _answers(form: Form | None, fields: RequestFields, prompt: Prompt) -> int:
    return fields.choices * (len(prompt.sequences) if form in _ANSWERS_EACH else 1)


_NOTHING: Final = Usage(0, 0)


def _is_guess(context: RequestContext) -> bool:
    return context.fields is not None and context.fields.max_output_tokens is None
