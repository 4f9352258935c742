"""The last decisions, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import merge
from typing import Final

from picker.decisions.record import Record, Refusal, bounded
from picker.request.choice import LeftOut
from picker.request.context import RequestContext
from picker.request.labels import RequestLabels
from picker.seams.observer import Rejected

KEPT: Final = 10_000
"""Decisions; the oldest one makes room for a new one."""
KEPT_REFUSALS: Final = 2_000
"""Apart from these, so that a client that is refused again and again takes no room from what was
decided."""
_MAX_MESSAGE: Final = 1_000


class Decisions:
    """Of one picker. 10,000 decisions take about 40 MB."""

    def __init__(
        self, now: Callable[[], float], *, kept: int = KEPT, refusals: int = KEPT_REFUSALS
    ) -> None:
        self._now = now
        self._sent: deque[Record] = deque(maxlen=kept)
        self._refused: deque[Refusal] = deque(maxlen=refusals)
        self.sent_total = self.refused_total = 0
        """Since the picker began."""

    def sent(
        self,
        context: RequestContext,
        labels: RequestLabels,
        now_s: float,
        decision_s: float,
        *,
        streaming: bool,
    ) -> Record:
        """A decided request goes to a replica; whoever sees its end puts that into its record."""
        record = Record(
            id=context.id,
            labels=bounded(labels),
            at_s=now_s,
            decision_s=decision_s,
            served_model=context.served_model,
            adapter=context.adapter,
            names_model=context.names_model,
            streaming=streaming,
            prompt_tokens=context.prompt_tokens,
            output_tokens=context.output_tokens,
            limited=context.grant is not None,
            choices=context.choices,
        )
        self._sent.append(record)
        self.sent_total += 1
        return record

    def refused(
        self,
        id: str,  # noqa: A002 - the request's id
        event: Rejected,
        message: str,
        left_out: LeftOut | None = None,
    ) -> None:
        """A request was answered with an error."""
        self._refused.append(
            Refusal(
                id=id,
                labels=bounded(event.labels),
                at_s=self._now(),
                decision_s=event.decision_s,
                status=event.status,
                code=event.reason,
                message=message[:_MAX_MESSAGE],
                left_out=left_out,
            )
        )
        self.refused_total += 1

    def newest_first(self) -> Iterator[Record | Refusal]:
        """Everything that is kept now; what comes later changes nothing in it."""
        sent: list[Record | Refusal] = [*reversed(self._sent)]
        refused: list[Record | Refusal] = [*reversed(self._refused)]
        return merge(sent, refused, key=lambda one: one.at_s, reverse=True)

    @property
    def oldest_s(self) -> float | None:
        """When the oldest decision that is kept was made; None: there is none."""
        return self._sent[0].at_s if self._sent else None

    @property
    def has_turned_over(self) -> bool:
        """Decisions were forgotten."""
        return self.sent_total > len(self._sent) or self.refused_total > len(self._refused)
