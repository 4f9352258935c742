"""Whether an item may go to an endpoint now that other pickers send to as well."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from math import inf
from typing import Final

from policies.flow.rivals import NOBODY, Before

BUSY_S: Final = 1.0
"""A picker that has sent something within this time is believed to go on."""
_SWEEP_AT: Final = 256
_STALE: Final = 8
"""Intervals after which nobody can have waited without being looked at."""


class Turns:
    """By endpoint: what this picker has sent there that others cannot know yet, and since when it
    lets others go before it.

    Two pickers with the same knowledge decide alike who goes: whoever's item comes before, as long
    as there are places for it and for what goes before it. What they cannot know is what others
    have sent within the last interval. Each assumes that the others did as it did itself: so ``n``
    pickers that fill ``k`` free places at the same time send ``k + n - 1`` at most.
    """

    def __init__(self) -> None:
        self._sent: dict[int, deque[tuple[float, float]]] = {}
        """When, and tokens to prefill."""
        self._since: dict[int, float] = {}
        """When the first was let go before."""
        self._again: dict[int, float] = {}
        """When to look again."""

    def sent(self, endpoint: int, tokens: float, now_s: float, interval_s: float) -> None:
        """A request goes to the endpoint, ``tokens`` to prefill."""
        if len(self._sent) > _SWEEP_AT:
            for one in [*self._sent]:
                self._unknown(one, now_s, interval_s)
        self._sent.setdefault(endpoint, deque()).append((now_s, tokens))

    def has_sent(self, endpoint: int) -> bool:
        """Something may have gone to the endpoint that others do not know of."""
        return endpoint in self._sent

    def assumed(
        self, endpoint: int, heard_s: Collection[float], now_s: float, interval_s: float
    ) -> Before:
        """What others are believed to have sent to the endpoint that is not known yet. ``heard_s``:
        when each of them was heard last."""
        sent = self._unknown(endpoint, now_s, interval_s)
        if not sent or not heard_s:
            return NOBODY
        requests, prefill = 0, 0.0
        for at_s, tokens in sent:
            pickers = sum(one < at_s for one in heard_s)
            requests += pickers
            prefill += pickers * tokens
        return Before(requests, prefill) if requests else NOBODY

    def has_waited(self, endpoint: int, before: int, now_s: float, interval_s: float) -> bool:
        """An item waits for ``before`` others to go to an endpoint with a place for it. Whether it
        has waited for so long that they do not use it. Within two intervals it is known there that
        there is a place, and here that it was used; those that wait for the same go one after the
        other, an interval apart."""
        since_s = self._since.setdefault(endpoint, now_s)
        if now_s > since_s + (_STALE + before) * interval_s:  # it was another item then
            since_s = self._since[endpoint] = now_s
        self._again[endpoint] = due_s = since_s + (1 + before) * interval_s
        return now_s >= due_s

    def waits(self, endpoint: int, interval_s: float) -> None:
        """An item waits until it is known what others have sent."""
        sent = self._sent.get(endpoint)
        if sent:
            self._again[endpoint] = sent[0][0] + interval_s

    def went(self, endpoint: int) -> None:
        """An item has gone there, or there is no place any more."""
        self._since.pop(endpoint, None)
        self._again.pop(endpoint, None)

    def next_s(self, now_s: float) -> float:
        """When to look again; infinite: nothing waits for others."""
        past = [one for one, at_s in self._again.items() if at_s <= now_s]
        for endpoint in past:
            del self._again[endpoint]
        return min(self._again.values(), default=inf)

    def _unknown(
        self, endpoint: int, now_s: float, interval_s: float
    ) -> deque[tuple[float, float]] | None:
        sent = self._sent.get(endpoint)
        if sent is None:
            return None
        while sent and sent[0][0] <= now_s - interval_s:
            sent.popleft()
        if not sent:
            del self._sent[endpoint]
        return sent
