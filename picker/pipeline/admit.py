"""Step: a request waits until its pool can begin it."""

from __future__ import annotations

from collections.abc import Awaitable

from picker.admission.admission import Admission
from picker.pipeline.schedule import Schedule
from picker.request.context import RequestContext


class Admit:
    """Lets a placed request pass when its replica would begin it at once, and nobody waits for that
    one."""

    def __init__(self, admission: Admission, schedule: Schedule) -> None:
        self._admission, self._schedule = admission, schedule

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        if not self._admission.passes(context):
            return self._wait(context)
        if context.ask_shadow is not None:
            context.ask_shadow()
        return None

    async def _wait(self, context: RequestContext) -> None:
        await self._admission.wait(context, self._schedule)
        if context.ask_shadow is not None:  # once, however often it was placed anew
            context.ask_shadow()
