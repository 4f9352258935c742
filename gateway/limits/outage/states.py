"""What may happen when, to a reservation and to its store: all changes of state are in this module.

An event changes the states that the tables name for it, and no others.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class RecordState(enum.Enum):
    """Of a reservation, from its grant until the store has its settlement."""

    HELD = enum.auto()  # it runs, and the store holds it
    BEHIND = enum.auto()  # it runs, and the store holds it, perhaps with too short a lease
    ABSENT = enum.auto()  # it runs, and the store must adopt it: it may not hold it
    QUEUED = enum.auto()  # it is settled here, and the store holds it
    UNADOPTED = enum.auto()  # it is settled here, and the store must adopt it first
    SENDING = enum.auto()  # its settlement was sent for the first time
    SENT = enum.auto()  # its settlement may be done: the store must not adopt it any more
    OVER = enum.auto()  # the store has its settlement, or will never have it


class RecordEvent(enum.Enum):
    """What happens to a reservation."""

    LOST = enum.auto()  # the store may have lost its data
    ADOPTED = enum.auto()  # the store has adopted it
    KNOWN = enum.auto()  # the store was to adopt it, and holds it already
    EXTENDED = enum.auto()  # its lease was renewed without the store
    RENEWED = enum.auto()  # the store has renewed its lease
    ENDED = enum.auto()  # it is settled here
    SEND = enum.auto()  # its settlement goes to the store
    UNANSWERED = enum.auto()  # the store did not answer to the settlement
    FORGOTTEN = enum.auto()  # the store answered that it does not know it, but it should
    CLOSED = enum.auto()  # the store has answered to the settlement, or it is given up


_R, _E = RecordState, RecordEvent
_RECORD: Final[Mapping[RecordEvent, Mapping[RecordState, RecordState]]] = {
    _E.LOST: {_R.HELD: _R.ABSENT, _R.BEHIND: _R.ABSENT, _R.QUEUED: _R.UNADOPTED},
    _E.ADOPTED: {_R.ABSENT: _R.HELD, _R.UNADOPTED: _R.QUEUED},
    _E.KNOWN: {_R.ABSENT: _R.BEHIND, _R.UNADOPTED: _R.QUEUED},
    _E.EXTENDED: {_R.HELD: _R.BEHIND},
    _E.RENEWED: {_R.BEHIND: _R.HELD},
    _E.ENDED: {_R.HELD: _R.QUEUED, _R.BEHIND: _R.QUEUED, _R.ABSENT: _R.UNADOPTED},
    _E.SEND: {_R.QUEUED: _R.SENDING},
    _E.UNANSWERED: {_R.SENDING: _R.SENT},
    _E.FORGOTTEN: {_R.SENDING: _R.UNADOPTED},
    _E.CLOSED: dict.fromkeys(_R, _R.OVER),
}


def record_after(state: RecordState, event: RecordEvent) -> RecordState:
    """The state of a reservation after an event."""
    return _RECORD[event].get(state, state)


class StoreMode(enum.Enum):
    """Who decides, and what is done for the store."""

    UP = enum.auto()  # the store decides
    CATCHING_UP = enum.auto()  # the store decides, and is brought up to date at the same time
    DOWN = enum.auto()  # decisions are made here; the store is asked whether it answers
    SLOW = enum.auto()  # decisions are made here; the store is slow, and is brought up to date
    RETURNING = enum.auto()  # decisions are made here until the store is up to date
    CLOSING = enum.auto()  # decisions are made here; the store is brought up to date at the end

    @property
    def down(self) -> bool:
        """Whether decisions are made here."""
        return self not in (StoreMode.UP, StoreMode.CATCHING_UP)


class StoreEvent(enum.Enum):
    """What happens to the store."""

    MISSED = enum.auto()  # it must be brought up to date
    FAILED = enum.auto()  # it failed too often, or lost its connection
    ANSWERED = enum.auto()  # it answered in time
    ANSWERED_LATE = enum.auto()  # it answered, but too late for requests
    CAUGHT_UP = enum.auto()  # it is up to date
    CLOSE = enum.auto()  # this process ends


_M, _S = StoreMode, StoreEvent
_STORE: Final[Mapping[StoreEvent, Mapping[StoreMode, StoreMode]]] = {
    _S.MISSED: {_M.UP: _M.CATCHING_UP},
    _S.FAILED: {mode: _M.DOWN for mode in _M if mode is not _M.CLOSING},
    _S.ANSWERED: {_M.DOWN: _M.RETURNING},
    _S.ANSWERED_LATE: {_M.DOWN: _M.SLOW},
    _S.CAUGHT_UP: {_M.CATCHING_UP: _M.UP, _M.RETURNING: _M.UP, _M.SLOW: _M.DOWN},
    _S.CLOSE: dict.fromkeys(_M, _M.CLOSING),
}


def store_after(mode: StoreMode, event: StoreEvent) -> StoreMode:
    """The store's mode after an event."""
    return _STORE[event].get(mode, mode)
