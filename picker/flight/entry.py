"""A request under way: one record, and the one table of what may happen to it when."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import StrEnum, auto
from typing import Final

from msgspec import Struct

from picker.decisions.record import NO_PREDICTIONS, Record
from picker.flight.leg import Leg
from picker.request.claim import Claim
from picker.request.context import RequestContext
from picker.request.grant import Grant
from picker.request.labels import RequestLabels
from picker.request.report import Report
from picker.seams.observer import Completed
from policies.flow.item import Item
from policies.limits.prices import NOTHING, Usage


class State(StrEnum):
    """Where a request under way is."""

    SERVING = auto()
    """Its endpoint works on it, as far as is known: the ledger counts it."""
    QUIET = auto()
    """Its engine shows nothing to do any more, but its end is not reported: a slow client may still
    read, or the engine's metrics do not show it. The ledger does not count it; its limits do."""
    LATE = auto()
    """Given up, and reported as such: only its limits still wait for its end."""
    ENDED = auto()


class Event(StrEnum):
    """What can happen to a request under way."""

    REPORTED = auto()
    """The data plane reported its end."""
    ENGINE_IDLE = auto()
    """A scrape showed its engine without any work."""
    EXPIRED = auto()
    """Nothing was reported for the time of its lease, or its report is known to be lost."""
    DOUBTED = auto()
    """Its report may be lost: a picker has died, or the data plane gives no sign of life of it.
    Limits are not to wait for it."""
    PROXY_RESTARTED = auto()
    """The data plane was started anew: no report can come any more."""
    DROPPED = auto()
    """It was never sent: the decision failed half-way."""


class Act(StrEnum):
    """What a transition does, in the order of its tuple: a policy of somebody else's may raise in
    the last one, learning, and then the request has ended in all books."""

    UNCOUNT = auto()
    """Take it off the ledger."""
    SETTLE = auto()
    """Charge its limits what it used, which ends its grant."""
    RELEASE = auto()
    """Give its grant back."""
    LAPSE = auto()
    """Let its grant run out by itself; it can still be settled."""
    LEARN = auto()
    """Learn from how it went."""
    OBSERVE = auto()
    """Report its end to the observer."""


Transition = tuple[State, tuple[Act, ...]]

TRANSITIONS: Final[dict[tuple[State, Event], Transition]] = {
    (State.SERVING, Event.REPORTED): (
        State.ENDED,
        (Act.UNCOUNT, Act.SETTLE, Act.OBSERVE, Act.LEARN),
    ),
    (State.SERVING, Event.ENGINE_IDLE): (State.QUIET, (Act.UNCOUNT,)),
    (State.SERVING, Event.EXPIRED): (State.LATE, (Act.UNCOUNT, Act.LAPSE, Act.OBSERVE)),
    (State.SERVING, Event.DOUBTED): (State.SERVING, (Act.LAPSE,)),
    (State.SERVING, Event.PROXY_RESTARTED): (State.ENDED, (Act.UNCOUNT, Act.SETTLE, Act.OBSERVE)),
    (State.SERVING, Event.DROPPED): (State.ENDED, (Act.UNCOUNT, Act.RELEASE)),
    (State.QUIET, Event.REPORTED): (State.ENDED, (Act.SETTLE, Act.OBSERVE, Act.LEARN)),
    (State.QUIET, Event.ENGINE_IDLE): (State.QUIET, ()),
    (State.QUIET, Event.EXPIRED): (State.LATE, (Act.LAPSE, Act.OBSERVE)),
    (State.QUIET, Event.DOUBTED): (State.QUIET, (Act.LAPSE,)),
    (State.QUIET, Event.PROXY_RESTARTED): (State.ENDED, (Act.SETTLE, Act.OBSERVE)),
    (State.QUIET, Event.DROPPED): (State.ENDED, (Act.RELEASE,)),
    (State.LATE, Event.REPORTED): (State.ENDED, (Act.SETTLE,)),
    (State.LATE, Event.ENGINE_IDLE): (State.LATE, ()),
    (State.LATE, Event.EXPIRED): (State.LATE, ()),
    (State.LATE, Event.DOUBTED): (State.LATE, ()),
    (State.LATE, Event.PROXY_RESTARTED): (State.ENDED, ()),
    (State.LATE, Event.DROPPED): (State.ENDED, ()),
    **{(State.ENDED, event): (State.ENDED, ()) for event in Event},
}
"""From any state any event leads to a defined one. A grant is lapsed any number of times, and then
settled or released once, or left to its lease."""


class Entry(Struct):
    """One request of this picker. Small, because tens of thousands may be under way: a long prompt
    leaves 8 bytes for each block, not its text."""

    id: str
    labels: RequestLabels
    legs: tuple[Leg, ...]
    """What it asks of each endpoint that works on it, in the order of its picks."""
    served_model: str
    session: str
    streaming: bool
    background: bool
    """Its engine goes on with it when the client has left."""
    matched_tokens: float
    expected: Usage
    possible: Usage
    grant: Grant | None
    text_bytes: int
    """Bytes of prompt that bytes per token are learned from, 0 when they are no measure."""
    text_units: int
    """Of that text: see `picker.prompt.measure`."""
    counted_tokens: int | None
    """Of that text, by the model's tokenizer."""
    claim: Claim | None
    """What we have made of its prompt, where its engine might make something else."""
    chains: tuple[array[int], ...]
    """Block hashes of its prompt."""
    choices: tuple[str, ...]
    """Endpoints that may answer, in the order in which they are tried."""
    names_model: bool
    """It asks for a model that each of them has listed."""
    started_s: float
    lease_until_s: float
    decision_s: float
    queue_s: float
    item: Item | None = None
    """As it waited for its pool; None: it did not."""
    added: Sequence[int] = ()
    """Of each chain how many blocks at its end it has added to what the first choice holds."""
    state: State = State.SERVING
    attended: bool = False
    """This picker itself sees it to its end: no report can be lost."""
    record: Record | None = None
    """What is kept of it for people; None: its dispatch has failed half-way."""

    @classmethod
    def of(
        cls, context: RequestContext, legs: tuple[Leg, ...], now_s: float, lease_s: float
    ) -> Entry:
        """What will be needed of a decided request later."""
        prompt, blocks = context.prompt, context.blocks
        queue_s = context.waited_s(now_s)
        only_text = prompt is not None and prompt.token_ids == 0 and prompt.media_items == 0
        return cls(
            id=context.id,
            labels=context.labels(),
            legs=legs,
            served_model=context.served_model,
            session=context.session,
            streaming=context.fields is not None and context.fields.stream,
            background=context.fields is not None and context.fields.background,
            matched_tokens=context.picks[0].matched_tokens,
            expected=context.expected,
            possible=context.possible,
            grant=context.grant,
            text_bytes=prompt.text_bytes if prompt is not None and only_text else 0,
            text_units=context.text_units,
            counted_tokens=context.counted_tokens,
            claim=context.claim,
            chains=tuple(array("Q", chain) for chain in blocks.chains)
            if blocks is not None
            else (),
            choices=context.picks[-1].addresses,
            names_model=context.names_model,
            started_s=now_s,
            lease_until_s=now_s + lease_s,
            decision_s=now_s - context.head.received_s - queue_s,
            queue_s=queue_s,
            item=context.item,
        )

    @property
    def answering(self) -> Leg:
        """The endpoint that was chosen to answer the client."""
        return self.legs[-1]

    @property
    def waited_s(self) -> float:
        """Part of the times in its report that it waited in the picker."""
        return 0.0 if self.attended else self.queue_s

    @property
    def waits_for_prefill(self) -> bool:
        """Another endpoint has not done its part, as far as is known: the one that answers may be
        idle until then."""
        return any(leg.counted_in is not None for leg in self.legs[:-1])

    @property
    def pool(self) -> str:
        """Name of its pool."""
        return self.answering.pool

    def completed(self, report: Report, usage: Usage | None) -> Completed:
        """Its end, for the observer, when its record has it. ``usage``: what it is charged."""
        used = usage or NOTHING
        predicted = NO_PREDICTIONS if self.record is None else self.record.predictions()
        return Completed(
            labels=self.labels,
            endpoint=report.address,
            status=report.status,
            reason=report.reason,
            streaming=self.streaming,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cached_tokens=used.cached_tokens,
            usage_reported=report.usage_reported,
            matched_tokens=self.matched_tokens,
            ttft_s=report.ttft_s,
            duration_s=report.duration_s,
            queue_s=self.queue_s,
            decision_s=self.decision_s,
            predicted_ttft_s=predicted.ttft_s,
            predicted_tpot_s=predicted.tpot_s,
            shadow_ttft_s=predicted.shadow_ttft_s,
            shadow_tpot_s=predicted.shadow_tpot_s,
        )
