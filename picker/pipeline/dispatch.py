"""Step: the request counts as sent, at once, so that a burst inside one scrape interval spreads."""

from __future__ import annotations

from picker.flight.flights import Flights
from picker.request.context import RequestContext


class Dispatch:
    """Enters the request into what is under way. The last step that takes anything."""

    def __init__(self, flights: Flights) -> None:
        self._flights = flights

    async def __call__(self, context: RequestContext) -> None:
        self._flights.open(context)
