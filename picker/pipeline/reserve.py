"""Step: what the request may cost is reserved in all of its tenant's limits, or in none."""

from __future__ import annotations

import time
from collections.abc import Callable

from picker.pipeline.count import Exactly
from picker.pipeline.estimate import Estimate
from picker.request.context import RequestContext
from picker.request.grant import Grant
from picker.request.rate_headers import rate_headers, refusal
from picker.request.rejection import Reason, Rejection
from picker.seams.limiter import Limiter, LimitsUnavailable
from policies.limits.fit import fitted
from policies.limits.plan import Subject
from policies.limits.verdict import Denied


class Reserve:
    """429 for a request that is over a limit, with the time to come again."""

    def __init__(
        self,
        limiter: Limiter,
        exactly: Exactly,
        estimate: Estimate,
        *,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """What an estimate would refuse for ever is counted ``exactly`` and tried again."""
        self._limiter = limiter
        self._exactly, self._estimate = exactly, estimate
        self._wall_s = wall_s

    async def __call__(self, context: RequestContext) -> None:
        caller, fields = context.caller, context.fields
        guessed = fields is not None and fields.max_output_tokens is None
        subject = Subject(
            tenant=caller.tenant,
            key=caller.line,
            user=context.user,
            model=context.billed_model,
            pool=context.pool,
        )
        verdict = await self._reserve(context, subject, guessed=guessed)
        if (
            isinstance(verdict, Denied)
            and self._exactly.may_help(context, verdict)
            and await self._exactly.count(context)
        ):
            await self._estimate(context)
            verdict = await self._reserve(context, subject, guessed=guessed)
        if isinstance(verdict, Denied):
            meters = caller.policy.meters(subject)
            if guessed:
                context.expected = fitted(meters, context.expected)
            raise refusal(
                verdict,
                {meter.bucket.key: meter.amount(context.expected) for meter in meters},
                anthropic=context.anthropic,
                wall_s=self._wall_s(),
            )
        context.grant = verdict
        if verdict is None:
            return
        context.expected = verdict.expected
        if verdict.standings:
            context.response_headers = rate_headers(
                verdict.standings, anthropic=context.anthropic, wall_s=self._wall_s()
            )

    async def _reserve(
        self, context: RequestContext, subject: Subject, *, guessed: bool
    ) -> Grant | Denied | None:
        try:
            return await self._limiter.reserve(
                context.id, context.caller, subject, context.expected, guessed=guessed
            )
        except LimitsUnavailable as error:
            raise Rejection(
                Reason.LIMITS_UNAVAILABLE,
                "The limits of this tenant cannot be checked just now; try again shortly.",
                headers=(("retry-after", "1"),),
            ) from error
