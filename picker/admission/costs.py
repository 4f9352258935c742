"""What requests cost a pool, in tokens of prefill: as expected while they wait and when it is their
turn, and as it was when they have ended; from that it is learned."""

from __future__ import annotations

from typing import Final

from picker.admission.begin import BeginTime
from picker.admission.places import Places
from picker.admission.unmetered import UnmeteredCost
from picker.admission.worth import OutputWorth
from picker.flight.charge import is_metered
from picker.flight.entry import Entry
from picker.request.context import RequestContext
from picker.request.report import Ending, Report
from policies.flow.expectation import Expectation
from policies.flow.item import Item
from policies.limits.prices import Usage

_LEAST: Final = 16.0
"""One whose tokens nobody knows, or are all cached, takes its turn as others do."""


class Costs:
    """Of one pool."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.worth = OutputWorth()
        self.expectation = Expectation()
        self.begin_time = BeginTime()
        self._unmetered = UnmeteredCost()

    def waiting(self, item: Item, context: RequestContext, uncached_tokens: float) -> float:
        """Of one that begins to wait where so much of its prompt is not cached. ``item``: with the
        cost of its whole prompt."""
        if not is_metered(context.expected):
            return self._unmetered.expected(context.head.path)
        return max(_LEAST, item.cost - (context.prompt_tokens - uncached_tokens))

    def taken(self, item: Item, context: RequestContext, uncached_tokens: float) -> float:
        """Of one whose turn has come there: its output is measured as of now."""
        item.output_worth = self.worth.tokens
        item.output_tokens = self.expectation.tokens(item.flow, item.stated_tokens)
        if not is_metered(context.expected):
            return self._unmetered.expected(context.head.path)
        return max(_LEAST, uncached_tokens + item.output_worth * item.output_tokens)

    def spent(self, entry: Entry, report: Report, usage: Usage | None) -> float:
        """Of one that has ended. ``usage``: what it is charged; None: nothing."""
        if usage is None:
            return 0.0
        if not is_metered(entry.expected):
            return max(_LEAST, self._unmetered_cost(entry, report))
        out, item = usage.output_tokens, entry.item
        self._learn_worth(entry, report, out)
        if item is None:
            return 0.0
        if report.ttft_s is not None:
            self.begin_time.observe(max(0.0, report.ttft_s - entry.waited_s))
        if report.reason is Ending.OK:
            self.expectation.observe(item.flow, out)
        uncached = max(0, usage.input_tokens - usage.cached_tokens)
        return max(_LEAST, uncached + item.output_worth * out)

    def _unmetered_cost(self, entry: Entry, report: Report) -> float:
        leg = entry.answering
        requests = 1.0 if leg.features is None else leg.features.endpoint.in_flight_requests + 1.0
        return self._unmetered.observe(
            entry.labels.path,
            took_s=max(0.0, report.duration_s - entry.waited_s),
            requests=requests,
            tokens_per_s=self._places.believed_speed,
        )

    def _learn_worth(self, entry: Entry, report: Report, out: int) -> None:
        leg, ttft_s = entry.answering, report.ttft_s
        if leg.features is None or not entry.streaming or ttft_s is None or out <= 4:
            return
        requests, state = leg.features.endpoint.in_flight_requests + 1.0, self._places.pool.state
        if (slot := state.slot_of.get(leg.address)) is not None:
            # It was decoded beside those that it found, then beside those that it leaves.
            requests = (requests + state.view.in_flight_requests.item(slot) + 1.0) / 2
        self.worth.observe(
            tpot_s=(report.duration_s - ttft_s) / (out - 1),
            requests=requests,
            tokens_per_s=self._places.speed,
        )
