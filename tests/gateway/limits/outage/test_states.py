"""The tables of states: what may happen when."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.limits.outage.states import (
    RecordEvent,
    RecordState,
    StoreEvent,
    StoreMode,
    record_after,
    store_after,
)

RUNNING = {RecordState.HELD, RecordState.BEHIND, RecordState.ABSENT}
WAITING = {RecordState.QUEUED, RecordState.UNADOPTED, RecordState.SENDING, RecordState.SENT}


def reachable(start: RecordState, events: set[RecordEvent]) -> set[RecordState]:
    found = {start}
    while more := {record_after(s, e) for s, e in product(found, events)} - found:
        found |= more
    return found


@pytest.mark.parametrize(("state", "event"), [*product(RecordState, RecordEvent)])
def test_any_event_leads_from_any_state_to_a_defined_one(
    state: RecordState, event: RecordEvent
) -> None:
    after = record_after(state, event)
    assert after in RecordState
    if state is RecordState.OVER:
        assert after is RecordState.OVER, "it ends once"
    elif event is RecordEvent.CLOSED:
        assert after is RecordState.OVER
    elif state in WAITING or event is RecordEvent.ENDED:
        assert after in WAITING, "what is settled does not run again"
    else:
        assert after in RUNNING


@pytest.mark.parametrize("event", RecordEvent)
def test_what_may_be_done_is_never_adopted(event: RecordEvent) -> None:
    assert record_after(RecordState.SENT, event) in (RecordState.SENT, RecordState.OVER)


@pytest.mark.parametrize("state", [RecordState.ABSENT, RecordState.UNADOPTED])
def test_only_the_store_says_that_it_holds_what_it_did_not_hold(state: RecordState) -> None:
    others = set(RecordEvent) - {RecordEvent.ADOPTED, RecordEvent.KNOWN, RecordEvent.CLOSED}
    assert reachable(state, others) <= {RecordState.ABSENT, RecordState.UNADOPTED}


def test_a_loss_reaches_all_that_the_store_held() -> None:
    assert {state: record_after(state, RecordEvent.LOST) for state in RecordState} == {
        RecordState.HELD: RecordState.ABSENT,
        RecordState.BEHIND: RecordState.ABSENT,
        RecordState.ABSENT: RecordState.ABSENT,
        RecordState.QUEUED: RecordState.UNADOPTED,
        RecordState.UNADOPTED: RecordState.UNADOPTED,
        RecordState.SENDING: RecordState.SENDING,
        RecordState.SENT: RecordState.SENT,
        RecordState.OVER: RecordState.OVER,
    }


@pytest.mark.parametrize(("mode", "event"), [*product(StoreMode, StoreEvent)])
def test_any_event_leads_from_any_mode_to_a_defined_one(mode: StoreMode, event: StoreEvent) -> None:
    after = store_after(mode, event)
    assert after in StoreMode
    if StoreMode.CLOSING in (mode, after):
        assert after is StoreMode.CLOSING
        assert mode is StoreMode.CLOSING or event is StoreEvent.CLOSE
    elif event is StoreEvent.FAILED:
        assert after is StoreMode.DOWN
    elif mode.down and not after.down:
        assert (mode, event) == (StoreMode.RETURNING, StoreEvent.CAUGHT_UP), "only when up to date"
    elif not mode.down:
        assert not after.down, "only by failing"
