"""What waits at other pickers for the same endpoints, and how much of it goes before an item."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from policies.flow.digest import HeadRow, part_of

Turn = tuple[bool, int, float, float]
"""Whose turn it is: the least goes next. False where its class is owed a turn; its class, the
highest first; the tag of its flow; its arrival, seconds."""


class Before(Struct, frozen=True):
    """What goes before an item to an endpoint."""

    requests: int = 0
    tokens: float = 0.0
    """Of prefill."""


NOBODY = Before()


class _Head(Struct, frozen=True):
    row: HeadRow
    arrived_s: float
    """By this picker's clock."""


class Rivals:
    """By endpoint and picker. Of each picker the one is known that goes next: more of its requests
    may go before an item than are counted here."""

    def __init__(self, name: str, tag: Callable[[int, str], float]) -> None:
        """``name``: of this picker; of two that came at the same time that one goes first whose
        picker's name is less. ``tag``: of a flow of a class, as this picker knows it."""
        self._name = name
        self._tag = tag
        self._heads: dict[int, dict[str, _Head]] = {}

    def __contains__(self, endpoint: int) -> bool:
        """Something waits for the endpoint at another picker."""
        return endpoint in self._heads

    def __iter__(self) -> Iterator[int]:
        """Endpoints for which something waits at other pickers."""
        return iter(self._heads)

    def hear(self, picker: str, row: HeadRow, later_s: float) -> None:
        """Take what waits at a picker for one endpoint. ``later_s``: how much later it is by this
        picker's clock."""
        if row.requests <= 0:
            self._drop(picker, row.endpoint)
        else:
            self._heads.setdefault(row.endpoint, {})[picker] = _Head(row, row.arrived_s + later_s)

    def hear_part(self, picker: str, named: set[int], part: int, parts: int) -> list[int]:
        """Of a part the picker has something waiting for the ``named`` endpoints alone. Gives those
        of which it had something before."""
        gone = [
            one
            for one, heads in self._heads.items()
            if picker in heads and one not in named and part_of(one, parts) == part
        ]
        for endpoint in gone:
            self._drop(picker, endpoint)
        return gone

    def lapse(self, picker: str) -> list[int]:
        """A picker is gone; gives the endpoints for which it had something waiting."""
        gone = [one for one, heads in self._heads.items() if picker in heads]
        for endpoint in gone:
            self._drop(picker, endpoint)
        return gone

    def before(self, endpoint: int, turn: Turn) -> Before:
        """What would go to the endpoint before an item whose turn that is."""
        heads = self._heads.get(endpoint)
        if heads is None:
            return NOBODY
        requests, tokens = 0, 0.0
        for picker, head in heads.items():
            if head.row.claims and (self._turn(head), picker) < (turn, self._name):
                requests += 1
                tokens += head.row.tokens
        return Before(requests, tokens) if requests else NOBODY

    def waiting(self, endpoint: int) -> tuple[int, float]:
        """Requests that wait elsewhere for the endpoint, and their tokens of prefill."""
        requests, tokens = 0, 0.0
        for head in self._heads.get(endpoint, {}).values():
            requests += head.row.requests
            tokens += head.row.prefill_tokens
        return requests, tokens

    def _turn(self, head: _Head) -> Turn:
        row = head.row
        return not row.owed, -row.priority, self._tag(row.priority, row.flow), head.arrived_s

    def _drop(self, picker: str, endpoint: int) -> None:
        heads = self._heads.get(endpoint)
        if heads is not None and heads.pop(picker, None) is not None and not heads:
            del self._heads[endpoint]
