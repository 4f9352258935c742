"""Replacing every endpoint of a pool at once."""

from __future__ import annotations

from gateway.pools.handover import LONGEST_S, Handover
from picker.state.spec import EndpointKey, EndpointSpec

OLD, NEW = "10.0.0.1:80", "10.0.0.2:80"
REPLACED = {"p": [EndpointSpec(OLD, draining=True), EndpointSpec(NEW)]}


def nobody(endpoint: EndpointKey) -> bool:
    """No endpoint is healthy."""
    return False


def test_the_old_one_serves_until_the_new_one_is_healthy() -> None:
    handover = Handover()
    assert handover.keep(REPLACED, nobody, 0.0) == {("p", OLD)}
    assert handover.keep(REPLACED, {("q", NEW)}.__contains__, 1.0) == {("p", OLD)}
    assert handover.keep(REPLACED, {("p", NEW)}.__contains__, 2.0) == set()


def test_a_new_one_that_never_comes_does_not_keep_it_for_ever() -> None:
    handover = Handover()
    assert handover.keep(REPLACED, nobody, 5.0)
    assert handover.keep(REPLACED, nobody, 5.0 + LONGEST_S) == set()


def test_one_that_leaves_alone_just_drains() -> None:
    alone = {"p": [EndpointSpec(OLD, draining=True)]}
    assert Handover().keep(alone, nobody, 0.0) == set()


def test_the_next_replacement_has_its_own_time() -> None:
    handover = Handover()
    assert handover.keep(REPLACED, nobody, 0.0)
    assert handover.keep({"p": [EndpointSpec(NEW)]}, nobody, 20.0) == set()
    again = {"p": [EndpointSpec(OLD, draining=True), EndpointSpec(NEW)]}
    assert handover.keep(again, nobody, 30.0) == {("p", OLD)}
