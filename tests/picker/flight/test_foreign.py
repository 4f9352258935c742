"""Loads that other pickers report: examples, then any order of reports, lost ones among them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker.flight.foreign import ForeignLoads
from picker.flight.ledger import Ledger
from picker.flight.leg import Leg
from picker.request.role import Role
from picker.seams.peers import ALL, Loads, Span, endpoint_key, endpoint_keys
from picker.state.endpoints import PoolState
from picker.state.spec import EndpointSpec

A, B, C = (f"10.0.0.{n}:8000" for n in (1, 2, 3))
Row = tuple[float, float, float]


def fresh(*addresses: str) -> tuple[PoolState, ForeignLoads]:
    pool = PoolState("chat", stale_after_s=5)
    pool.sync([EndpointSpec(address) for address in addresses or (A, B)])
    return pool, ForeignLoads({"chat": pool})


def loads(rows: Mapping[str, Row], complete: Span | None = None) -> Loads:
    numbers = np.array(list(rows.values())).reshape(-1, 3)
    return Loads("chat", endpoint_keys(rows), numbers, complete)


def columns(pool: PoolState, address: str = A) -> Row:
    slot, view = pool.slot_of[address], pool.view
    return (
        float(view.in_flight_requests[slot]),
        float(view.in_flight_prefill_tokens[slot]),
        float(view.in_flight_kv_tokens[slot]),
    )


def test_loads_of_several_pickers_add_up_and_replace_what_they_were() -> None:
    pool, foreign = fresh()
    ledger = Ledger({"chat": pool})
    leg = Leg("r1", Role.BOTH, "chat", A, 1_000, 1_000, 0)
    ledger.open(leg, 0.0)
    foreign.report("p", loads({A: (2, 500, 900)}))
    foreign.report("q", loads({A: (1, 100, 100), B: (1, 1, 1)}))
    assert columns(pool) == (4, 1_600, 2_000)
    foreign.report("p", loads({A: (1, 0, 400)}))
    assert columns(pool) == (3, 1_100, 1_500)
    foreign.forget("q")
    ledger.close(leg)
    assert columns(pool) == (1, 0, 400)
    assert columns(pool, B) == (0, 0, 0)
    assert foreign.pickers() == {"p"}
    foreign.report("p", loads({A: (0, 0, 0)}))
    assert columns(pool) == (0, 0, 0)
    assert not foreign.pickers()


def test_what_is_not_known_here_is_left_out_until_it_is() -> None:
    pool, foreign = fresh(A)
    report = loads({B: (1, 1, 1), A: (2, 2, 2)})
    assert foreign.report("p", report) == [A]
    assert foreign.report("p", Loads("elsewhere", endpoint_keys([A]), np.ones((1, 3)))) == ()
    pool.sync([EndpointSpec(A), EndpointSpec(B)])
    assert columns(pool, B) == (0, 0, 0)
    foreign.report("p", report)
    assert columns(pool) == (2, 2, 2)
    assert columns(pool, B) == (1, 1, 1)


def test_a_complete_report_heals_what_was_lost() -> None:
    pool, foreign = fresh()
    foreign.report("p", loads({A: (1, 1, 1), B: (1, 1, 1)}))
    foreign.report("q", loads({A: (5, 5, 5)}))
    foreign.report("p", loads({B: (2, 2, 2)}, ALL))  # that A has nothing any more was lost
    assert columns(pool) == (5, 5, 5)
    assert columns(pool, B) == (2, 2, 2)
    foreign.report("p", loads({}, ALL))
    assert foreign.pickers() == {"q"}


def test_a_report_that_is_complete_for_some_keys_says_nothing_of_the_others() -> None:
    pool, foreign = fresh(A, B, C)
    first, second, third = sorted((A, B, C), key=endpoint_key)

    def requests() -> list[float]:
        return [columns(pool, address)[0] for address in (first, second, third)]

    foreign.report("p", loads({A: (1, 1, 1), B: (1, 1, 1), C: (1, 1, 1)}))
    foreign.report("p", loads({}, Span(endpoint_key(second), endpoint_key(third) - 1)))
    assert requests() == [1, 0, 1]
    foreign.report("p", loads({}, Span(endpoint_key(second), ALL.last)))
    assert requests() == [1, 0, 0]
    foreign.report("p", loads({}, Span(0, endpoint_key(first))))
    assert requests() == [0, 0, 0]


def test_those_with_a_first_request_are_told_and_at_a_complete_report_all() -> None:
    _, foreign = fresh()
    assert foreign.report("p", loads({A: (1, 0, 0), B: (0, 0, 0)})) == [A]
    assert foreign.report("p", loads({A: (2, 0, 0), B: (1, 0, 0)})) == [B]
    assert foreign.report("p", loads({A: (2, 0, 0)}, ALL)) == [A]


@pytest.mark.parametrize(
    "bad",
    [
        Loads("chat", endpoint_keys([A]), np.array([[np.inf, 0, 0]])),
        Loads("chat", endpoint_keys([A]), np.array([[1, np.nan, 0]])),
        Loads("chat", endpoint_keys([A]), np.ones((2, 3))),
    ],
)
def test_what_cannot_be_true_is_refused_and_changes_nothing(bad: Loads) -> None:
    pool, foreign = fresh()
    with pytest.raises(ValueError):
        foreign.report("p", bad)
    assert columns(pool) == (0, 0, 0)


def test_of_an_endpoint_that_is_there_twice_the_last_row_counts() -> None:
    pool, foreign = fresh()
    foreign.report("p", Loads("chat", endpoint_keys([A, A]), np.array([[3.0, 3, 3], [1, 1, 1]])))
    assert columns(pool) == (1, 1, 1)
    foreign.forget("p")
    assert columns(pool) == (0, 0, 0)


def test_a_prefill_waits_for_those_of_other_pickers() -> None:
    pool, foreign = fresh()
    ledger = Ledger({"chat": pool})
    legs = [Leg(str(n), Role.BOTH, "chat", address, 80, 80, 0) for n, address in enumerate((A, B))]
    foreign.report("p", loads({B: (1, ledger.speed("chat").tokens_per_s, 0)}))
    for leg in legs:
        ledger.open(leg, 0.0)
    assert legs[1].prefill_due_s == pytest.approx(legs[0].prefill_due_s + 1.0)


def test_what_a_dead_picker_had_sent_goes_away_request_by_request() -> None:
    pool, foreign = fresh()
    foreign.report("dead", loads({A: (2, 100, 300)}))
    assert foreign.left_behind({"alive"}, "chat", A) == 2
    assert foreign.left_behind({"alive"}, "chat", B) == 0
    assert foreign.left_behind({"dead"}, "chat", A) == 0
    foreign.one_less("alive", A)
    foreign.one_less("dead", B)
    assert columns(pool) == (2, 100, 300)
    foreign.one_less("dead", A)
    assert columns(pool) == (1, 50, 150)
    foreign.one_less("dead", A)
    foreign.one_less("dead", A)
    assert columns(pool) == (0, 0, 0)


def test_what_a_dead_picker_had_sent_goes_away_when_the_engine_is_idle() -> None:
    pool, foreign = fresh()
    foreign.report("dead", loads({A: (2, 100, 300), B: (1, 1, 1)}))
    foreign.forget_at({"dead"}, "chat", A)
    assert columns(pool)[0] == 2
    foreign.forget_at({"alive"}, "chat", A)
    assert columns(pool) == (0, 0, 0)
    assert columns(pool, B) == (1, 1, 1)


@pytest.mark.parametrize("reported", ["before", "after"])
def test_what_a_dead_picker_had_sent_counts_when_its_pool_has_been_removed(reported: str) -> None:
    pool, _ = fresh()
    pools = {"chat": pool}
    foreign = ForeignLoads(pools)
    foreign.report("dead", loads({A: (3, 1, 1), B: (1, 1, 1)}))
    pool.sync([])
    del pools["chat"]
    foreign.sweep()
    if reported == "after":  # the pool has gone, the picker still finishes what it sent
        foreign.report("dead", loads({A: (2, 1, 1), B: (0, 0, 0)}))
    else:
        foreign.one_less("dead", A)
        foreign.one_less("dead", B)
    assert foreign.left_behind({"alive"}, "chat", A) == 2
    assert foreign.left_behind({"alive"}, "chat", B) == 0
    assert foreign.left_behind({"dead"}, "chat", A) == 0
    assert foreign.pickers() == {"dead"}
    foreign.one_less("dead", A)
    foreign.one_less("dead", A)
    foreign.one_less("dead", A)
    assert foreign.left_behind({"alive"}, "chat", A) == 0
    assert not foreign.pickers()


def test_what_a_dead_picker_had_sent_counts_when_the_slot_has_another_owner() -> None:
    pool, foreign = fresh(A)
    foreign.report("dead", loads({A: (2, 1, 1)}))
    pool.sync([EndpointSpec(B)])
    foreign.report("dead", loads({B: (1, 5, 5)}))
    assert foreign.left_behind(set(), "chat", A) == 2
    assert foreign.left_behind(set(), "chat", B) == 1
    assert columns(pool, B) == (1, 5, 5)
    pool.sync([EndpointSpec(A), EndpointSpec(B)])
    assert foreign.left_behind(set(), "chat", A) == 2
    foreign.report("dead", loads({B: (1, 5, 5)}, ALL))
    assert foreign.left_behind(set(), "chat", A) == 0
    assert foreign.left_behind(set(), "chat", B) == 1


def test_nothing_is_kept_of_pools_that_have_gone_and_are_idle() -> None:
    pool, _ = fresh()
    pools = {"chat": pool}
    foreign = ForeignLoads(pools)
    foreign.report("p", loads({A: (1, 1, 1)}))
    pool.sync([])
    del pools["chat"]
    foreign.sweep()
    assert foreign.pickers() == {"p"}
    foreign.forget("p")
    assert not foreign.pickers()
    assert foreign.left_behind(set(), "chat", A) == 0


def test_a_pool_that_has_gone_and_come_back_begins_with_nothing() -> None:
    pool, _ = fresh()
    pools = {"chat": pool}
    foreign = ForeignLoads(pools)
    foreign.report("p", loads({A: (1, 1, 1)}))
    pool.sync([])
    again, _ = fresh()
    pools["chat"] = again
    foreign.report("p", loads({B: (1, 1, 1)}))
    assert columns(again) == (0, 0, 0)
    assert columns(again, B) == (1, 1, 1)
    foreign.forget("p")
    assert columns(again, B) == (0, 0, 0)


NOTHING = (0.0, 0.0, 0.0)
NAMES = [f"10.0.0.{n}:8000" for n in range(1, 13)]
ADDRESSES = st.sampled_from(NAMES)
PEERS = st.sampled_from(["p", "q", "r"])
WHOLE = st.integers(0, 50_000).map(float)
LOADS = st.tuples(st.integers(1, 3).map(float), WHOLE, WHOLE) | st.just(NOTHING)
ROWS = st.dictionaries(ADDRESSES, LOADS)


def within(address: str, span: Span) -> bool:
    return span.first <= endpoint_key(address) <= span.last


class ForeignMachine(RuleBasedStateMachine):
    """Each picker has its own truth and reports parts of it or all of it; some reports are lost.
    The columns are the sums of what has arrived, and of the truth once all have reported all.
    Requests on endpoints that are not in the pool count by endpoint only."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.foreign = fresh(*NAMES[:3])
        self.truth: dict[str, dict[str, Row]] = {peer: {} for peer in ("p", "q", "r")}
        self.arrived: dict[str, dict[str, Row]] = {peer: {} for peer in self.truth}
        self.departed: dict[str, dict[str, Row]] = {peer: {} for peer in self.truth}

    @rule(peer=PEERS, rows=ROWS, lost=st.booleans())
    def changes(self, peer: str, rows: dict[str, Row], lost: bool) -> None:
        self.truth[peer].update(rows)
        if not lost:
            self._report(peer, rows, None)

    @rule(peer=PEERS, cut=ADDRESSES)
    def all_in_two_parts(self, peer: str, cut: str) -> None:
        key = endpoint_key(cut)
        for span in (Span(0, key - 1), Span(key, ALL.last)):
            rows = {a: row for a, row in self.truth[peer].items() if within(a, span) and row[0]}
            self._report(peer, rows, span)

    @rule()
    def all_report_all(self) -> None:
        for peer, rows in self.truth.items():
            self._report(peer, rows, ALL)
            for address in self.pool.slot_of:
                want = rows.get(address, (0, 0, 0))
                assert self.arrived[peer].get(address, (0, 0, 0)) == (
                    want if want[0] else (0, 0, 0)
                )

    def _report(self, peer: str, rows: dict[str, Row], complete: Span | None) -> None:
        self.foreign.report(peer, loads(rows, complete))
        arrived, departed = self.arrived[peer], self.departed[peer]
        for known in (arrived, departed):
            for address in list(known):
                if address in rows or (complete is not None and within(address, complete)):
                    del known[address]
        for address, row in rows.items():
            if row[0]:
                (arrived if address in self.pool.slot_of else departed)[address] = row

    @rule(peer=PEERS)
    def dies(self, peer: str) -> None:
        self.foreign.forget(peer)
        self.arrived[peer].clear()
        self.departed[peer].clear()

    @rule(addresses=st.sets(ADDRESSES))
    def endpoints_change(self, addresses: set[str]) -> None:
        changes = self.pool.sync([EndpointSpec(address) for address in sorted(addresses)])
        self.foreign.sweep()
        for peer, arrived in self.arrived.items():
            for address in arrived.keys() & changes.removed.keys():
                self.departed[peer][address] = arrived.pop(address)

    @rule(peer=PEERS, address=ADDRESSES)
    def idle(self, peer: str, address: str) -> None:
        self.foreign.forget_at(self.truth.keys() - {peer}, "chat", address)
        self.arrived[peer].pop(address, None)
        self.departed[peer].pop(address, None)

    @invariant()
    def columns_are_the_sums(self) -> None:
        view = self.pool.view
        sums = np.zeros((3, self.pool.slots))
        for peer, arrived in self.arrived.items():
            for address, row in arrived.items():
                sums[:, self.pool.slot_of[address]] += row
            assert (peer in self.foreign.pickers()) == bool(arrived or self.departed[peer])
        for address in NAMES:
            requests = sum(
                known[address][0]
                for known in (*self.arrived.values(), *self.departed.values())
                if address in known
            )
            assert self.foreign.left_behind(set(), "chat", address) == requests
        assert view.in_flight_requests.tolist() == sums[0].tolist()
        assert view.in_flight_prefill_tokens.tolist() == sums[1].tolist()
        assert view.in_flight_kv_tokens.tolist() == sums[2].tolist()


TestForeignMachine = ForeignMachine.TestCase
