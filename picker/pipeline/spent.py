"""Step: limits that a long body cannot change, before anything is done with it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from picker.bodies.cost import SURE_BYTES, is_heavy
from picker.pipeline.estimate import costs_nothing
from picker.request.context import RequestContext
from picker.request.rate_headers import refusal
from picker.seams.limiter import Limiter
from policies.limits.plan import Subject
from policies.limits.prices import NOTHING, Usage

_A_TOKEN: Final = Usage(1, 0)


class RefuseSpent:
    """429 for a body that is long to read, of a caller of whom no request would be granted now: a
    caller over its limits makes no work."""

    def __init__(self, limiter: Limiter, *, wall_s: Callable[[], float] = time.time) -> None:
        self._limiter = limiter
        self._wall_s = wall_s

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        # A short one may be long when it is decoded.
        encoded = "content-encoding" in context.head.headers and bool(context.body)
        if len(context.body) <= SURE_BYTES and not encoded:
            return None
        context.heavy = encoded or is_heavy(context.body)
        if context.heavy and context.caller.policy.rules:
            return self._refuse_spent(context)
        return None

    async def _refuse_spent(self, context: RequestContext) -> None:
        caller = context.caller
        has_prompt = context.form is not None and context.head.sends
        least = _A_TOKEN if has_prompt and not costs_nothing(context.head.path) else NOTHING
        denied = await self._limiter.spent(context.id, caller, least)
        if denied is not None:
            subject = Subject(caller.tenant, caller.line, caller.user)
            meters = caller.policy.meters(subject)
            raise refusal(
                denied,
                {meter.bucket.key: meter.amount(least) for meter in meters},
                anthropic=context.anthropic,
                wall_s=self._wall_s(),
            )
