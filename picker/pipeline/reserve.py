"""Step: what the request may cost is reserved in all of its tenant's limits, or in none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from picker import names
from picker.pipeline.count import Exactly
from picker.pipeline.estimate import Estimate
from picker.pipeline.output_room import clamp, fitting_tokens
from picker.request.context import RequestContext
from picker.request.grant import Grant
from picker.request.rate_headers import rate_headers, refusal
from picker.request.rejection import Reason, Rejection
from picker.seams.limiter import Limiter, LimitsUnavailable
from policies.limits.fit import fitted
from policies.limits.known_names import KnownNames
from policies.limits.plan import By, Subject
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
        self._names = KnownNames()

    async def __call__(self, context: RequestContext) -> None:
        caller, fields = context.caller, context.fields
        guessed = fields is not None and fields.max_output_tokens is None
        subject = self._subject(context)
        verdict = await self._reserve(context, context.id, subject, guessed=guessed)
        if (
            isinstance(verdict, Denied)
            and self._exactly.may_help(context, verdict)
            and await self._exactly.count(context)
        ):
            rest = self._estimate(context)
            if rest is not None:
                await rest
            again = f"{context.id}{_COUNTED}"
            verdict = await self._reserve(context, again, subject, guessed=guessed)
        if isinstance(verdict, Denied) and clamp(context, verdict, caller.policy.meters(subject)):
            again = f"{context.id}{_CLAMPED}"
            verdict = await self._reserve(context, again, subject, guessed=False)
        if isinstance(verdict, Denied):
            meters = caller.policy.meters(subject)
            if guessed:
                context.expected = fitted(meters, context.expected)
            raise refusal(
                verdict,
                {meter.bucket.key: meter.amount(context.expected) for meter in meters},
                anthropic=context.anthropic,
                wall_s=self._wall_s(),
                fitting_tokens=fitting_tokens(context, meters),
            )
        context.grant = verdict
        if verdict is None:
            return
        context.expected = verdict.expected
        if verdict.standings:
            context.response_headers = rate_headers(
                verdict.standings, anthropic=context.anthropic, wall_s=self._wall_s()
            )
        if context.clamped_output_tokens is not None:
            clamped = (names.CLAMPED, str(context.clamped_output_tokens))
            context.response_headers = (*context.response_headers, clamped)

    def _subject(self, context: RequestContext) -> Subject:
        caller = context.caller
        limited_by = caller.policy.limited_by
        return Subject(
            tenant=caller.tenant,
            key=caller.line,
            user=context.user,
            model=context.billed_model,
            pool=context.pool,
            session=self._named(context, By.SESSION, context.session_id)
            if By.SESSION in limited_by
            else "",
            agent=self._named(context, By.AGENT, context.agent_id)
            if By.AGENT in limited_by
            else "",
        )

    def _named(self, context: RequestContext, by: By, name: str) -> str:
        """What limits by session or agent count it as."""
        return self._names.known((context.caller.tenant, by.value), name, self._wall_s())

    async def _reserve(
        self, context: RequestContext, reservation: str, subject: Subject, *, guessed: bool
    ) -> Grant | Denied | None:
        try:
            return await self._limiter.reserve(
                reservation, context.caller, subject, context.expected, guessed=guessed
            )
        except LimitsUnavailable as error:
            raise Rejection(
                Reason.LIMITS_UNAVAILABLE,
                "The limits of this tenant cannot be checked just now; try again shortly.",
                headers=(("retry-after", "1"),),
            ) from error


_COUNTED: Final = "#"
_CLAMPED: Final = "*"
"""At the end of the id of another reservation: an earlier one may yet be granted, and is given back
then."""
