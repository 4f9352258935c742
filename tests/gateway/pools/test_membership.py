"""What pickers and Envoy are to see of the endpoints that providers report."""

from __future__ import annotations

from gateway.pools.handover import LONGEST_S
from gateway.pools.membership import Membership
from picker.state.spec import EndpointChanges, EndpointKey, EndpointSpec

A, B, C = EndpointSpec("10.0.0.1:80"), EndpointSpec("10.0.0.2:80"), EndpointSpec("10.0.0.3:80")
DRAINING_A, DRAINING_B = EndpointSpec(A.address, draining=True), EndpointSpec(B.address, True)


def everybody(endpoint: EndpointKey) -> bool:
    return True


def nobody(endpoint: EndpointKey) -> bool:
    return False


def members(*specs: EndpointSpec) -> Membership:
    """A pool of these, published."""
    made = Membership()
    made.apply(EndpointChanges("chat", specs))
    assert made.publish(everybody, 0.0) == [EndpointChanges("chat", specs)]
    return made


def test_changes_are_passed_on_once() -> None:
    made = members(B, A)
    assert made.endpoints() == {"chat": [A, B]}
    assert made.publish(everybody, 0.0) == []
    made.apply(EndpointChanges("chat", (C,), (A.address,)))
    assert made.publish(everybody, 0.0) == [EndpointChanges("chat", (C,), (A.address,))]
    made.apply(EndpointChanges("chat", deletes=(B.address, C.address)))
    made.publish(everybody, 0.0)
    assert made.endpoints() == {}


def test_one_that_a_person_takes_out_drains_and_does_not_leave() -> None:
    made = members(A, B)
    made.hold("chat", A.address, held=True)
    assert made.publish(everybody, 0.0) == [EndpointChanges("chat", (DRAINING_A,))]
    assert made.leaving() == []
    made.hold("chat", A.address, held=False)
    assert made.publish(everybody, 0.0) == [EndpointChanges("chat", (A,))]


def test_one_that_drains_leaves() -> None:
    made = members(A, B)
    made.apply(EndpointChanges("chat", (DRAINING_A,)))
    assert made.leaving() == [], "nobody has been told yet"
    made.publish(everybody, 0.0)
    assert made.leaving() == [("chat", A.address)]
    made.apply(EndpointChanges("chat", (A,)))
    assert made.leaving() == [], "its provider has taken it back"


def test_the_last_one_serves_until_its_replacement_is_healthy() -> None:
    made = members(A)
    made.apply(EndpointChanges("chat", (DRAINING_A, B)))
    assert made.publish(nobody, 1.0) == [EndpointChanges("chat", (B,))]
    assert made.hands_over
    assert made.leaving() == []
    assert made.publish(everybody, 2.0) == [EndpointChanges("chat", (DRAINING_A,))]
    assert not made.hands_over
    assert made.leaving() == [("chat", A.address)]


def test_a_replacement_that_never_comes_keeps_it_for_a_while_only() -> None:
    made = members(A)
    made.apply(EndpointChanges("chat", (DRAINING_A, B)))
    made.publish(nobody, 1.0)
    assert made.publish(nobody, 1.0 + LONGEST_S) == [EndpointChanges("chat", (DRAINING_A,))]
