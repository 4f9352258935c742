"""Pool state: slots, freshness, health, growth."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.request.role import Role
from picker.state.endpoints import PoolState
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.state.spec import EndpointChanges, EndpointSpec
from tests.picker.state.pool import SIGNALS, SPECS, A, B, C, candidates, pool_with


def test_an_endpoint_is_a_candidate_while_it_answers() -> None:
    pool = PoolState("chat", stale_after_s=5.0)
    pool.sync([EndpointSpec(A), EndpointSpec(B)])
    assert candidates(pool) == []
    assert pool.why_not(A, 100.0) == "no answer yet"
    pool.apply_signals(A, SIGNALS, 100.0)
    pool.apply_lack(B, Lack.SIGNALS, "no page", 106.0)
    assert candidates(pool, 105.0) == [A, B]
    assert candidates(pool, 105.1) == [B]
    assert pool.why_not(A, 107.0) == "no answer for 7.0 s"
    pool.apply_lack(A, Lack.ANSWER, "GET /health: no answer within 1 s", 107.0)
    assert pool.why_not(A, 107.0) == "no answer for 7.0 s (GET /health: no answer within 1 s)"
    pool.apply_signals(A, SIGNALS, 107.0)
    assert candidates(pool, 107.0) == [A, B]
    assert pool.why_not(A, 107.0) is None


def test_when_all_are_silent_those_that_have_answered_once_still_get_requests() -> None:
    pool = pool_with(A, B)
    pool.sync([EndpointSpec(A), EndpointSpec(B), EndpointSpec(C)])
    assert candidates(pool, 200.0) == [A, B]
    assert sorted(pool.silent(200.0).nonzero()[0]) == sorted(pool.slot_of[one] for one in (A, B))
    pool.apply_lack(C, Lack.SIGNALS, "", 200.0)
    assert candidates(pool, 200.0) == [C]
    assert {pool.address_of(slot) for slot in pool.last_resort().tolist()} == {A, B, C}
    for address in (A, B, C):
        pool.mark_failed(address, 201.0, "refused")
    assert candidates(pool, 201.0) == []
    assert pool.last_resort().size == 0


def test_what_is_not_reported_stands_at_the_mean_of_what_is() -> None:
    pool = pool_with(A, B)
    pool.sync([EndpointSpec(A), EndpointSpec(B), EndpointSpec(C)])
    pool.apply_lack(C, Lack.SIGNALS, "no page", 100.0)
    pool.apply_signals(B, replace(SIGNALS, waiting_requests=8, kv_usage=0.75), 101.0)
    slot, view = pool.slot_of[C], pool.view
    assert (view.waiting_requests[slot], view.running_requests[slot]) == (5, 5)
    assert (view.kv_usage[slot], view.lora_slots[slot]) == (0.5, 4)
    assert pool.why_no_signals(C) == "no page"
    pool.apply_signals(C, replace(SIGNALS, waiting_requests=0), 102.0)
    assert view.waiting_requests[slot] == 0
    assert pool.why_no_signals(C) == ""


def test_old_signals_hold_for_a_while_when_no_new_ones_come() -> None:
    pool = pool_with(A, B)
    pool.apply_signals(B, replace(SIGNALS, waiting_requests=8), 109.0)
    slot = pool.slot_of[A]
    pool.apply_lack(A, Lack.SIGNALS, "too slow", 105.0)
    assert pool.view.waiting_requests[slot] == 2
    pool.apply_lack(A, Lack.SIGNALS, "too slow", 110.0)
    assert pool.view.waiting_requests[slot] == 8
    assert candidates(pool, 110.0) == [A, B]


def test_an_endpoint_without_a_model_list_has_the_declared_models() -> None:
    pool = pool_with(A)
    pool.apply_lack(A, Lack.MODELS, "GET /v1/models: status 404", 100.0)
    assert pool.why_no_models(A) is not None
    assert "status 404" in str(pool.why_no_models(A))
    pool.apply_lack(A, Lack.MODELS, "GET /v1/models: status 404", 101.0, declared=("m",))
    assert pool.models.served_by(pool.slot_of[A]) == ["m"]
    assert pool.why_no_models(A) is None
    pool.apply_lack(A, Lack.MODELS, "GET /v1/models: status 404", 102.0, declared=("n",))
    assert pool.models.served_by(pool.slot_of[A]) == ["n"], "the configuration has changed"
    pool.apply_models(A, [ServedModel("real", None, None)])
    pool.apply_lack(A, Lack.MODELS, "GET /v1/models: status 500", 103.0, declared=("n",))
    assert pool.models.served_by(pool.slot_of[A]) == ["real"], "what it has listed counts"


def test_signals_fill_the_columns() -> None:
    pool = pool_with(A)
    slot, view = pool.slot_of[A], pool.view
    assert view.waiting_requests[slot] == 2
    assert view.running_requests[slot] == 5
    assert view.kv_usage[slot] == 0.25
    assert view.kv_capacity_tokens[slot] == 100_000
    assert (view.lora_slots[slot], view.lora_active[slot]) == (4, 2)
    assert pool.kv_block_tokens[slot] == 16
    pool.apply_signals(A, replace(SIGNALS, kv_capacity_tokens=None, kv_block_tokens=None), 101.0)
    assert view.kv_capacity_tokens[slot] == 100_000, "what a scrape leaves out is still true"
    assert pool.kv_block_tokens[slot] == 16


def test_what_an_engine_has_beyond_what_we_sent_there_is_foreign() -> None:
    pool = pool_with(A)
    slot, view = pool.slot_of[A], pool.view
    assert view.foreign_requests[slot] == 7
    view.in_flight_requests[slot] = 4
    pool.apply_signals(A, SIGNALS, 101.0)
    assert view.foreign_requests[slot] == 3
    view.in_flight_requests[slot] = 0  # ours have ended since, and the engine was not asked again
    assert view.foreign_requests[slot] == 3
    view.in_flight_requests[slot] = 9
    pool.apply_signals(A, SIGNALS, 102.0)
    assert view.foreign_requests[slot] == 0


def test_a_failed_endpoint_is_none_until_signals_arrive_again() -> None:
    pool = pool_with(A, B)
    pool.mark_failed(A, 100.5, "connection refused")
    assert candidates(pool) == [B]
    assert pool.why_not(A, 100.5) == "connection refused"
    pool.apply_signals(A, SIGNALS, 101.0)
    assert candidates(pool, 101.0) == [A, B]


def test_a_draining_endpoint_gets_nothing_new_even_with_fresh_signals() -> None:
    pool = pool_with(A, B)
    changes = pool.sync([EndpointSpec(A, draining=True), EndpointSpec(B)])
    assert not changes.added
    assert not changes.removed
    pool.apply_signals(A, SIGNALS, 100.0)
    assert candidates(pool) == [B]
    assert pool.why_not(A, 100.0) == "draining"
    pool.sync([EndpointSpec(A), EndpointSpec(B)])
    assert candidates(pool) == [A, B]


def test_slots_are_stable_and_used_again_clean() -> None:
    pool = pool_with(A, B)
    slot_a, slot_b = pool.slot_of[A], pool.slot_of[B]
    generation = pool.generation_of(slot_a)
    pool.apply_models(A, [ServedModel("m", None, 4096)])
    changes = pool.sync([EndpointSpec(B), EndpointSpec(C)])
    assert changes.added == {C: slot_a}
    assert changes.removed == {A: slot_a}, "whoever knows something by slot must forget it"
    assert pool.slot_of == {B: slot_b, C: slot_a}
    assert pool.generation_of(slot_a) != generation
    for column in fields(pool.view):
        assert getattr(pool.view, column.name)[slot_a] == 0
    assert not pool.models.serving("m")[slot_a]
    assert candidates(pool) == [B]
    with pytest.raises(KeyError):
        pool.address_of(7)


def test_late_news_of_a_removed_endpoint_is_ignored() -> None:
    pool = pool_with(A)
    pool.sync([])
    pool.apply_signals(A, SIGNALS, 100.0)
    pool.apply_models(A, [ServedModel("m", None, None)])
    pool.mark_failed(A, 100.0, "gone")
    pool.expect_adapter(A, "a")
    assert candidates(pool) == []
    assert pool.why_not(A, 100.0) == "unknown"


def test_a_thousand_endpoints_grow_the_columns_and_keep_what_they_hold() -> None:
    pool = pool_with(A)
    view = pool.view
    view.in_flight_requests[pool.slot_of[A]] = 3
    many = [f"10.1.{n // 250}.{n % 250}:8000" for n in range(1_000)]
    pool.sync([EndpointSpec(address) for address in (A, *many)])
    assert pool.view is view
    assert view.in_flight_requests[pool.slot_of[A]] == 3
    assert view.kv_usage.shape == (pool.slots,)
    assert len(set(pool.slot_of.values())) == 1_001
    for address in many:
        pool.apply_signals(address, SIGNALS, 100.0)
    assert len(candidates(pool)) == 1_001
    adapter = pool.models.serving("m")
    assert adapter.shape == (pool.slots,)
    assert int(np.count_nonzero(view.waiting_requests)) == 1_001


def test_a_burst_for_one_adapter_finds_it_expected_before_the_next_scrape() -> None:
    pool = pool_with(A, B)
    for address in (A, B):
        pool.apply_models(address, [ServedModel("m", None, None), ServedModel("x", "m", None)])
    pool.expect_adapter(A, "x")
    pool.expect_adapter(A, "x")
    adapter = pool.models.adapter("x")
    assert adapter is not None
    slot = pool.slot_of[A]
    assert adapter.running[slot]
    assert not adapter.running[pool.slot_of[B]]
    assert pool.view.lora_active[slot] == 3
    pool.apply_signals(A, SIGNALS, 101.0)
    assert not adapter.running[slot]
    assert pool.view.lora_active[slot] == 2


def test_a_scrape_that_began_before_the_failure_does_not_heal() -> None:
    pool = pool_with(A)
    pool.mark_failed(A, 101.0, "refused")
    pool.apply_signals(A, SIGNALS, 101.2, began_s=100.9)
    assert candidates(pool, 101.2) == []
    pool.apply_signals(A, SIGNALS, 101.3, began_s=101.1)
    assert candidates(pool, 101.3) == [A]


@given(
    SPECS,
    SPECS,
    st.sets(st.sampled_from([A, "10.0.0.1", "10.0.0.2", "fd00::1", "[fd00::1]", "[fd00::1]:80"])),
)
def test_a_subset_names_endpoints_by_address_or_by_ip(
    before: list[EndpointSpec], after: list[EndpointSpec], subset: set[str]
) -> None:
    pool = PoolState("chat", stale_after_s=5.0)
    pool.sync(before)
    pool.sync(after)

    def named(address: str) -> bool:
        host = address.rpartition(":")[0]
        return bool({address, host, host.strip("[]")} & subset)

    slots = pool.in_subset(subset)
    assert slots.tolist() == sorted(slots.tolist())
    assert {pool.address_of(int(slot)) for slot in slots} == {a for a in pool.specs if named(a)}


def test_an_endpoint_does_the_parts_of_its_role() -> None:
    state = PoolState("main", stale_after_s=5.0)
    roles = [Role.BOTH, Role.PREFILL, Role.DECODE] * 4  # more than the first slots
    state.sync(EndpointSpec(f"10.0.0.{n}:1", role=role) for n, role in enumerate(roles))
    everyone = np.arange(len(roles))

    def able(role: Role) -> list[Role]:
        slots = state.in_role(everyone, role).tolist()
        assert slots == sorted(slots)
        return [state.specs[state.address_of(slot)].role for slot in slots]

    assert set(able(Role.BOTH)) == {Role.BOTH}
    assert set(able(Role.PREFILL)) == {Role.BOTH, Role.PREFILL}
    assert set(able(Role.DECODE)) == {Role.BOTH, Role.DECODE}
    assert len(able(Role.BOTH)) == 4
    assert len(able(Role.PREFILL)) == len(able(Role.DECODE)) == 8
    slot = state.slot_of["10.0.0.1:1"]
    state.apply(EndpointChanges("main", deletes=("10.0.0.1:1",)))
    state.apply(EndpointChanges("main", (EndpointSpec("10.0.0.99:1"),)))
    assert state.slot_of["10.0.0.99:1"] == slot
    assert len(able(Role.BOTH)) == 5, "its slot does the parts of its new owner"
    state.apply(EndpointChanges("main", (EndpointSpec("10.0.0.99:1", role=Role.DECODE),)))
    assert len(able(Role.BOTH)) == 4


def test_what_the_data_plane_doubts_is_the_last_resort_until_it_is_read() -> None:
    pool = pool_with(A, B, C)
    pool.mark_failed(C, 100.0, "refused")
    for address in (A, B, C, A):
        pool.doubt(address, 100.5, "broken off")
    assert candidates(pool, 100.5) == []
    assert {pool.address_of(slot) for slot in pool.last_resort().tolist()} == {A, B}
    pool.apply_signals(A, SIGNALS, 100.4, began_s=100.4)
    assert candidates(pool, 100.5) == [], "that was before"
    pool.apply_signals(A, SIGNALS, 100.6, began_s=100.6)
    assert candidates(pool, 100.6) == [A]
    pool.sync([EndpointSpec(A), EndpointSpec(B, draining=True), EndpointSpec(C)])
    pool.mark_failed(A, 100.7, "refused")
    assert pool.last_resort().size == 0
    pool.sync([EndpointSpec(C)])
    pool.doubt(A, 101.0, "gone")
    assert pool.last_resort().size == 0
