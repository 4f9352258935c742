"""Session bindings."""

from __future__ import annotations

import pytest

from picker.state.sessions import Sessions


def test_a_session_keeps_its_address_and_can_be_bound_anew() -> None:
    sessions = Sessions(max_sessions=10, ttl_s=60)
    assert sessions.address_of("s", 0.0) is None
    sessions.bind("s", "a:1", 0.0)
    assert sessions.address_of("s", 30.0) == "a:1"
    sessions.bind("s", "b:1", 30.0)
    assert sessions.address_of("s", 30.0) == "b:1"


def test_a_binding_lives_as_long_as_it_is_used() -> None:
    sessions = Sessions(max_sessions=10, ttl_s=60)
    sessions.bind("s", "a:1", 0.0)
    sessions.bind("s", "a:1", 50.0)
    assert sessions.address_of("s", 110.0) == "a:1"
    assert sessions.address_of("s", 110.1) is None
    assert len(sessions) == 0


def test_the_least_recently_used_go_first() -> None:
    sessions = Sessions(max_sessions=2, ttl_s=60)
    sessions.bind("one", "a:1", 0.0)
    sessions.bind("two", "a:1", 1.0)
    sessions.bind("one", "a:1", 2.0)
    sessions.bind("three", "a:1", 3.0)
    assert sessions.address_of("two", 3.0) is None
    assert sessions.address_of("one", 3.0) == "a:1"
    sessions.bind("four", "a:1", 100.0)
    assert len(sessions) == 1, "what is too old goes with the next binding"


@pytest.mark.parametrize(("max_sessions", "ttl_s"), [(0, 60), (1, 0)])
def test_bounds_must_be_positive(max_sessions: int, ttl_s: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Sessions(max_sessions=max_sessions, ttl_s=ttl_s)
