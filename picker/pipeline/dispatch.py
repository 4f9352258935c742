"""Step: the request counts as sent, at once, so that a burst inside one scrape interval spreads."""

from __future__ import annotations

from picker.admission.admission import Admission
from picker.flight.flights import Flights
from picker.request.context import RequestContext


class Dispatch:
    """Enters the request into what is under way. The last step that takes anything."""

    def __init__(self, flights: Flights, admission: Admission, lease_s: float) -> None:
        self._flights, self._admission = flights, admission
        self._lease_s = lease_s

    def __call__(self, context: RequestContext) -> None:
        self._flights.open(context, self._lease_s)
        if context.item is not None or context.caller.idle_only:
            self._admission.counted(context)
