"""Changes of the endpoints that a pool should have."""

from __future__ import annotations

from hypothesis import given

from picker.request.role import Role
from picker.state.endpoints import PoolState
from picker.state.spec import EndpointChanges, EndpointSpec, changes_between
from tests.picker.state.pool import SPECS, A, B, candidates, pool_with


def test_upserts_and_deletes_leave_the_other_endpoints_alone() -> None:
    pool = pool_with(A, B)
    slot = pool.slot_of[B]
    labelled = EndpointSpec(B, role=Role.DECODE, rank=1, labels=(("zone", "a"),))
    assert not pool.apply(EndpointChanges("chat", upserts=(labelled,))).added
    assert pool.specs == {A: EndpointSpec(A), B: labelled}
    assert pool.slot_of[B] == slot
    assert candidates(pool) == [A, B]
    changes = pool.apply(EndpointChanges("chat", deletes=(A, "10.9.9.9:1")))
    assert list(changes.removed) == [A], "one that is gone already is no news"
    assert candidates(pool) == [B]


def test_a_deleted_address_that_comes_back_is_another_endpoint() -> None:
    pool = pool_with(A)
    generation = pool.generation_of(pool.slot_of[A])
    again = EndpointChanges("chat", upserts=(EndpointSpec(A),), deletes=(A,))
    changes = pool.apply(again)
    assert (list(changes.added), list(changes.removed)) == ([A], [A])
    assert pool.generation_of(pool.slot_of[A]) != generation
    assert candidates(pool) == []


@given(SPECS, SPECS)
def test_changes_lead_from_one_set_of_endpoints_to_the_other(
    before: list[EndpointSpec], after: list[EndpointSpec]
) -> None:
    pool = PoolState("chat", stale_after_s=5.0)
    pool.sync(before)
    pool.apply(changes_between("chat", pool.specs, after))
    assert pool.specs == {spec.address: spec for spec in after}
    assert pool.slot_of.keys() == pool.specs.keys()
    assert not changes_between("chat", pool.specs, after)
