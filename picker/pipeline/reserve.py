"""Step: what the request may cost is reserved in all of its tenant's limits, or in none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from picker.catalog import Catalog
from picker.limits import Limiter, LimitsUnavailable
from picker.pipeline.context import RequestContext
from picker.pipeline.limited import rate_headers, refusal
from picker.pipeline.rejection import Reason, Rejection
from picker.prompt.forms import Form
from policies.limits.estimate import OutputQuantile
from policies.limits.fit import fitted
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from policies.limits.types import MAX_AMOUNT
from policies.limits.verdict import Denied

_GENERATES: Final = frozenset(
    {Form.CHAT, Form.COMPLETIONS, Form.RESPONSES, Form.ANTHROPIC, Form.GENERATE}
)
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
        context.expected = self._expected(context)
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
        caller, asked = context.caller, context.asked_model
        return Subject(
            tenant=caller.tenant,
            key=caller.line,
            user=context.user,
            model=asked if self._catalog.is_known(asked) else context.served_model,
            pool=context.pool.name if context.pool is not None else "",
        )

    def _expected(self, context: RequestContext) -> Usage:
        prompt, fields = context.prompt, context.fields
        if prompt is None or fields is None or context.head.path.endswith(_COSTS_NOTHING):
            return _NOTHING
        input_tokens = min(MAX_AMOUNT, math.ceil(context.prompt_tokens))
        if context.form not in _GENERATES:
            return Usage(input_tokens, 0)
        prompts = len(prompt.sequences) if context.form is Form.COMPLETIONS else 1
        bound = fields.max_output_tokens
        if bound is None:
            bound = self._output.tokens(context.caller.tenant, context.served_model)
        longest = self._catalog.max_model_tokens(context.served_model)
        if longest is not None:
            bound = min(bound, longest)
        return Usage(input_tokens, min(MAX_AMOUNT, bound * fields.choices * prompts))


_NOTHING: Final = Usage(0, 0)


def _is_guess(context: RequestContext) -> bool:
    return context.fields is not None and context.fields.max_output_tokens is None
