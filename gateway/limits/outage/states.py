"""What may happen when, to a reservation and to its store: all changes of state are in this module.

An event that is not in the table for a state changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class RecordState(enum.Enum):
    """Of a reservation, from its grant until the store has its settlement."""

    HELD = "held"
    """It runs, and the store holds it."""
    BEHIND = "behind"
    """It runs, and the store holds it, but its lease may be renewed only here."""
    ABSENT = "absent"
    """It runs, and the store may not hold it: the store must adopt it."""
    QUEUED = "queued"
    """Its settlement waits, and the store holds it."""
    UNADOPTED = "unadopted"
    """Its settlement waits, and the store may not hold it: the store must adopt it first."""
    SENDING = "sending"
    """Its settlement was sent for the first time."""
    SENT = "sent"
    """Its settlement was sent and had no answer, so it may be done: the store must not adopt it
    any more. A settlement of something that was never granted is here from the beginning."""
    OVER = "over"
    """The store has its settlement, or will never have it."""


class RecordEvent(enum.Enum):
    """What happens to a reservation."""

    LOST = "lost"
    """The store may have lost its data."""
    ADOPTED = "adopted"
    """The store has adopted it."""
    KNOWN = "known"
    """The store was to adopt it and holds it already, perhaps with a shorter lease."""
    EXTENDED = "extended"
    """Its lease was renewed without the store."""
    RENEWED = "renewed"
    """The store has renewed its lease."""
    ENDED = "ended"
    """It is settled here."""
    SEND = "send"
    """Its settlement goes to the store."""
    UNANSWERED = "unanswered"
    """The store did not answer to the settlement."""
    FORGOTTEN = "forgotten"
    """The store answered to the settlement that it does not know the reservation, but should."""
    CLOSED = "closed"
    """The store has answered to the settlement, or it is given up."""


_RUNNING: Final = (RecordState.HELD, RecordState.BEHIND)
_RECORD: Final[Mapping[RecordEvent, Mapping[RecordState, RecordState]]] = {
    RecordEvent.LOST: {
        **dict.fromkeys(_RUNNING, RecordState.ABSENT),
        RecordState.QUEUED: RecordState.UNADOPTED,
    },
    RecordEvent.ADOPTED: {
        RecordState.ABSENT: RecordState.HELD,
        RecordState.UNADOPTED: RecordState.QUEUED,
    },
    RecordEvent.KNOWN: {
        RecordState.ABSENT: RecordState.BEHIND,
        RecordState.UNADOPTED: RecordState.QUEUED,
    },
    RecordEvent.EXTENDED: {RecordState.HELD: RecordState.BEHIND},
    RecordEvent.RENEWED: {RecordState.BEHIND: RecordState.HELD},
    RecordEvent.ENDED: {
        **dict.fromkeys(_RUNNING, RecordState.QUEUED),
        RecordState.ABSENT: RecordState.UNADOPTED,
    },
    RecordEvent.SEND: {RecordState.QUEUED: RecordState.SENDING},
    RecordEvent.UNANSWERED: {RecordState.SENDING: RecordState.SENT},
    RecordEvent.FORGOTTEN: {RecordState.SENDING: RecordState.UNADOPTED},
    RecordEvent.CLOSED: dict.fromkeys(RecordState, RecordState.OVER),
}


def record_after(state: RecordState, event: RecordEvent) -> RecordState:
    """The state of a reservation after an event."""
    return _RECORD[event].get(state, state)


class StoreMode(enum.Enum):
    """Who decides, and what is done for the store."""

    UP = "up"
    """The store decides."""
    CATCHING_UP = "catching up"
    """The store decides, and is brought up to date at the same time."""
    DOWN = "down"
    """Decisions are made here. From time to time the store is asked whether it answers."""
    SLOW = "slow"
    """Decisions are made here. The store is too slow for requests, but is brought up to date."""
    RETURNING = "returning"
    """Decisions are made here. The store answers, and is brought up to date before it decides."""
    CLOSING = "closing"
    """Decisions are made here. The store is brought up to date for the last time."""

    @property
    def down(self) -> bool:
        """Whether decisions are made here."""
        return self not in _STORE_DECIDES


class StoreEvent(enum.Enum):
    """What happens to the store."""

    MISSED = "missed"
    """It must be brought up to date."""
    FAILED = "failed"
    """It failed too often, or lost its connection."""
    ANSWERED = "answered"
    """It answered in time."""
    ANSWERED_LATE = "answered late"
    """It answered, but too late for requests."""
    CAUGHT_UP = "caught up"
    """It is up to date."""
    CLOSE = "close"
    """This process ends."""


_STORE_DECIDES: Final = frozenset({StoreMode.UP, StoreMode.CATCHING_UP})
_STORE: Final[Mapping[StoreEvent, Mapping[StoreMode, StoreMode]]] = {
    StoreEvent.MISSED: {StoreMode.UP: StoreMode.CATCHING_UP},
    StoreEvent.FAILED: {
        mode: StoreMode.DOWN for mode in StoreMode if mode is not StoreMode.CLOSING
    },
    StoreEvent.ANSWERED: {StoreMode.DOWN: StoreMode.RETURNING},
    StoreEvent.ANSWERED_LATE: {StoreMode.DOWN: StoreMode.SLOW},
    StoreEvent.CAUGHT_UP: {
        StoreMode.CATCHING_UP: StoreMode.UP,
        StoreMode.RETURNING: StoreMode.UP,
        StoreMode.SLOW: StoreMode.DOWN,
    },
    StoreEvent.CLOSE: dict.fromkeys(StoreMode, StoreMode.CLOSING),
}


def store_after(mode: StoreMode, event: StoreEvent) -> StoreMode:
    """The store's mode after an event."""
    return _STORE[event].get(mode, mode)
