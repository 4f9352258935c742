"""The in-flight ledger: examples, then any order of events against the sums it must show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker.flight.ledger import Ledger
from picker.flight.leg import Leg
from picker.request.role import Role
from picker.seams.peers import ALL, Loads, endpoint_key
from picker.state.endpoints import PoolState
from picker.state.spec import EndpointSpec

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
ADDRESS_OF = {endpoint_key(f"10.0.0.{n}:8000"): f"10.0.0.{n}:8000" for n in range(1, 5)}


def named(loads: Loads) -> list[str]:
    """The addresses it is about."""
    return [ADDRESS_OF[key] for key in loads.endpoints.tolist()]


def fresh(*addresses: str) -> tuple[PoolState, Ledger]:
    pool = PoolState("chat", stale_after_s=5)
    pool.sync([EndpointSpec(address) for address in addresses or (A, B)])
    return pool, Ledger({"chat": pool})


def send(
    ledger: Ledger,
    id: str,  # noqa: A002
    address: str = A,
    *,
    prompt: float = 1_000,
    uncached: float | None = None,
    output: float = 100,
    now_s: float = 0.0,
) -> Leg:
    uncached = prompt if uncached is None else uncached
    leg = Leg(id, Role.BOTH, "chat", address, prompt, uncached, output)
    ledger.open(leg, now_s)
    return leg


def columns(pool: PoolState, address: str = A) -> tuple[float, float, float]:
    slot, view = pool.slot_of[address], pool.view
    return (
        float(view.in_flight_requests[slot]),
        float(view.in_flight_prefill_tokens[slot]),
        float(view.in_flight_kv_tokens[slot]),
    )


def test_a_request_counts_at_once_and_until_it_ends() -> None:
    pool, ledger = fresh()
    first = send(ledger, "r1", prompt=1_000, uncached=400)
    assert columns(pool) == (1, 400, 1_100)
    assert columns(pool, B) == (0, 0, 0)
    assert first.backlog_tokens == 0
    second = send(ledger, "r2")
    assert second.backlog_tokens == 400
    assert ledger.in_flight("chat", A) == 2
    assert ledger.close(first)
    assert ledger.close(second)
    assert columns(pool) == (0, 0, 0)
    assert ledger.in_flight("chat", A) == len(ledger) == 0


def test_closing_twice_does_nothing() -> None:
    pool, ledger = fresh()
    first = send(ledger, "r1")
    send(ledger, "r2")
    assert ledger.close(first)
    assert not ledger.close(first)
    assert not ledger.close(Leg("never", Role.BOTH, "chat", A, 1, 1, 1))
    assert columns(pool)[0] == 1


def test_an_id_in_flight_and_an_unknown_endpoint_are_refused() -> None:
    pool, ledger = fresh()
    send(ledger, "r1")
    with pytest.raises(ValueError, match="'r1' is already in flight"):
        send(ledger, "r1")
    with pytest.raises(KeyError):
        send(ledger, "r2", "10.9.9.9:1")
    assert columns(pool)[0] == 1


def test_the_roles_of_one_request_count_on_their_endpoints() -> None:
    pool, ledger = fresh()
    prefill = Leg("r", Role.PREFILL, "chat", A, 1_000, 400, 0)
    decode = Leg("r", Role.DECODE, "chat", B, 1_000, 0, 300)
    ledger.open(prefill, 0.0)
    ledger.open(decode, 0.0)
    assert columns(pool) == (1, 400, 1_000)
    assert columns(pool, B) == (1, 0, 1_300)
    ledger.close(prefill)
    ledger.close(decode)
    assert columns(pool) == columns(pool, B) == (0, 0, 0)


def test_the_prefill_backlog_drains_in_order_of_arrival_at_the_learned_speed() -> None:
    pool, ledger = fresh()
    second_s = ledger.speed("chat").tokens_per_s  # tokens that take one second
    for n in range(3):
        send(ledger, str(n), prompt=second_s, now_s=0.0)
    ledger.settle_prefills(0.9)
    assert columns(pool)[1] == pytest.approx(3 * second_s, abs=3)
    ledger.settle_prefills(1.1)
    assert columns(pool)[1] == pytest.approx(2 * second_s, abs=3)
    ledger.settle_prefills(3.1)
    assert columns(pool)[1] == 0
    assert columns(pool)[0] == 3, "they still decode"


def test_a_first_token_settles_what_was_sent_before_it() -> None:
    pool, ledger = fresh()
    send(ledger, "long", prompt=900_000, now_s=0.0)
    short = send(ledger, "short", prompt=100, now_s=0.1)
    send(ledger, "later", prompt=300, now_s=0.2)
    ledger.close(short, ttft_s=2.0, now_s=2.1)
    assert columns(pool)[1] == 300
    assert columns(pool)[0] == 2


def test_first_tokens_that_the_engine_counts_outdo_what_was_believed() -> None:
    pool, ledger = fresh()
    ledger.engine_told("chat", A, 100, 0.0)
    legs = [send(ledger, str(n), prompt=1_000) for n in range(5)]
    ledger.settle_prefills(60.0)
    assert columns(pool)[1] == 0  # they should be done for long
    ledger.engine_told("chat", A, 102, 60.0)
    assert columns(pool)[1] == 3_000
    ledger.settle_prefills(90.0)
    assert columns(pool)[1] == 0
    ledger.engine_told("chat", A, 105, 90.0)
    assert columns(pool)[1] == 0
    assert all(ledger.close(leg) for leg in legs)


def test_a_first_token_counts_once_whoever_tells_first() -> None:
    pool, ledger = fresh()
    ledger.engine_told("chat", A, 0, 0.0)
    first, second, third = (send(ledger, name, prompt=1_000) for name in "abc")
    ledger.close(second, ttft_s=0.4)  # so the first one has had its own, too
    assert columns(pool)[1] == 1_000
    ledger.engine_told("chat", A, 2, 0.5)  # those two
    assert columns(pool)[1] == 1_000
    ledger.engine_told("chat", A, 3, 0.6)
    assert columns(pool)[1] == 0
    ledger.close(first)
    ledger.close(third)


def test_first_tokens_from_before_the_first_count_hide_no_later_ones() -> None:
    pool, ledger = fresh()
    early = [send(ledger, f"early {n}") for n in range(3)]
    ledger.engine_told("chat", A, 10, 1.0)  # with theirs
    for leg in early:
        ledger.close(leg, ttft_s=0.5, now_s=2.0)
    for name in "abc":
        send(ledger, name, now_s=2.0)
    ledger.engine_told("chat", A, 13, 3.0)
    assert columns(pool)[1] == 0


def test_a_count_that_comes_late_is_ignored() -> None:
    pool, ledger = fresh()
    ledger.engine_told("chat", A, 4, 1.0)
    ledger.engine_told("chat", A, 3, 0.9)
    send(ledger, "a", now_s=1.0)
    ledger.engine_told("chat", A, 4, 1.1)
    assert columns(pool)[1] == 1_000


def test_without_counts_of_first_tokens_a_prefill_waits_for_all_that_are_before_it() -> None:
    pool, ledger = fresh()
    for n in range(100):
        send(ledger, f"stream {n}", prompt=8)
    ledger.settle_prefills(60.0)
    for n in range(4):
        send(ledger, f"long {n}", prompt=8_000, now_s=60.0)  # a second each
    ledger.settle_prefills(62.5)
    assert columns(pool)[1] == 16_000


def test_an_engine_that_begins_anew_counts_from_there() -> None:
    pool, ledger = fresh()
    ledger.engine_told("chat", A, 50, 0.0)
    send(ledger, "a", prompt=1_000)
    ledger.engine_told("chat", A, 0, 0.05)
    assert columns(pool)[1] == 1_000
    ledger.engine_told("chat", A, 1, 0.1)
    assert columns(pool)[1] == 0


def test_first_tokens_of_others_are_theirs() -> None:
    pool, ledger = fresh()
    ledger.engine_told("chat", A, 0, 0.0)
    send(ledger, "a", prompt=1_000)
    send(ledger, "b", prompt=1_000)
    pool.view.in_flight_requests[pool.slot_of[A]] += 2  # another picker's
    ledger.engine_told("chat", A, 2, 0.0)
    assert columns(pool)[1] == 1_000


def test_parts_of_first_tokens_add_up() -> None:
    pool, ledger = fresh()
    ledger.engine_told("chat", A, 0, 0.0)
    for n in range(4):
        send(ledger, str(n))
    pool.view.in_flight_requests[pool.slot_of[A]] += 4  # another picker's
    for count in range(1, 9):
        ledger.engine_told("chat", A, count, float(count))
    assert columns(pool)[1] == 0


def test_first_tokens_of_clients_of_their_own_and_of_many_sequences_are_no_requests() -> None:
    pool, ledger = fresh()
    ledger.engine_told("chat", A, 0, 0.0)
    send(ledger, "a")
    send(ledger, "b")
    pool.view.running_requests[pool.slot_of[A]] = 6
    pool.view.waiting_requests[pool.slot_of[A]] = 2
    ledger.engine_told("chat", A, 4, 0.0)
    assert columns(pool)[1] == 1_000


def test_what_engines_told_is_forgotten_with_them() -> None:
    pool, ledger = fresh()
    ledger.engine_told("chat", A, 7, 0.0)
    pool.sync([EndpointSpec(B)])
    ledger.sweep()
    pool.sync([EndpointSpec(A), EndpointSpec(B)])
    send(ledger, "a", prompt=1_000)
    ledger.engine_told("chat", A, 9, 0.0)  # of another process at that address
    assert columns(pool)[1] == 1_000


def test_an_aborted_prefill_frees_the_time_of_those_behind_it() -> None:
    _, ledger = fresh()
    send(ledger, "keep", prompt=80, now_s=0.0)
    ledger.close(send(ledger, "abort", prompt=800_000, now_s=0.0), now_s=0.0)
    assert send(ledger, "next", prompt=80, now_s=0.0).prefill_due_s < 1.0


def test_only_what_was_opened_before_an_instant() -> None:
    _, ledger = fresh()
    send(ledger, "old", now_s=0.0)
    send(ledger, "young", now_s=8.0)
    send(ledger, "elsewhere", B, now_s=0.0)
    assert [leg.id for leg in ledger.opened_until("chat", A, 5.0)] == ["old"]
    assert ledger.opened_until("chat", "10.9.9.9:1", 5.0) == []


def test_an_end_that_arrives_after_the_slot_went_to_another_endpoint_changes_nothing() -> None:
    pool, ledger = fresh(A)
    old = send(ledger, "old")
    pool.sync([EndpointSpec(B)])
    send(ledger, "new", B, prompt=500)
    assert ledger.close(old)
    assert columns(pool, B) == (1, 500, 600)


def test_a_pool_that_is_gone_does_not_break_closing() -> None:
    pool = PoolState("chat", stale_after_s=5)
    pool.sync([EndpointSpec(A)])
    pools = {"chat": pool}
    ledger = Ledger(pools)
    leg = send(ledger, "r1")
    again = PoolState("chat", stale_after_s=5)
    again.sync([EndpointSpec(A)])
    pools["chat"] = again
    assert ledger.close(leg)
    assert columns(again) == (0, 0, 0)


def test_only_loads_that_changed_are_reported() -> None:
    _, ledger = fresh()
    first = send(ledger, "r1", prompt=10, output=5)
    assert ledger.changed
    (loads,) = ledger.loads()
    assert (loads.pool, named(loads), loads.complete) == ("chat", [A], None)
    assert loads.rows.tolist() == [[1, 10, 15]]
    assert not ledger.changed
    assert list(ledger.loads()) == []
    send(ledger, "r2", B, prompt=10, output=5)
    ledger.close(first)
    (loads,) = ledger.loads()
    assert dict(zip(named(loads), loads.rows[:, 0].tolist(), strict=True)) == {A: 0, B: 1}


def test_all_loads_are_reported_as_complete_of_every_pool() -> None:
    _, ledger = fresh()
    first, _ = send(ledger, "r1"), send(ledger, "r2", B)
    ledger.close(first)
    (loads,) = ledger.loads(everything=True)
    assert (named(loads), loads.complete) == ([B], ALL)
    assert list(ledger.loads()) == []
    _, idle = fresh()
    (loads,) = idle.loads(everything=True)
    assert (loads.pool, named(loads), loads.complete) == ("chat", [], ALL)
    assert loads.rows.shape == (0, 3)


ADDRESSES = st.sampled_from([f"10.0.0.{n}:8000" for n in range(1, 5)])
TOKENS = st.floats(0, 50_000)


class LedgerMachine(RuleBasedStateMachine):
    """Columns equal the sum of open legs, and reports the same by endpoint, whatever happens in
    whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.ledger = fresh()
        self.now_s = 0.0
        self.open: list[Leg] = []
        self.reported: dict[str, list[float]] = {}
        self.ids = 0

    @rule(address=ADDRESSES, prompt=TOKENS, uncached=TOKENS, output=TOKENS)
    def send(self, address: str, prompt: float, uncached: float, output: float) -> None:
        if address not in self.pool.slot_of:
            return
        self.ids += 1
        leg = send(
            self.ledger,
            str(self.ids),
            address,
            prompt=prompt,
            uncached=uncached,
            output=output,
            now_s=self.now_s,
        )
        self.open.append(leg)

    @rule(data=st.data(), ttft_s=st.none() | st.floats(0, 30), told=st.booleans())
    def close(self, data: st.DataObject, ttft_s: float | None, told: bool) -> None:
        if self.open:
            leg = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            now_s = self.now_s if told else None
            assert self.ledger.close(leg, ttft_s=ttft_s, now_s=now_s)
            assert not self.ledger.close(leg)

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.ledger.settle_prefills(self.now_s)

    @rule(address=ADDRESSES, first_tokens=st.integers(0, 8))
    def engine_tells(self, address: str, first_tokens: int) -> None:
        self.ledger.engine_told("chat", address, first_tokens, self.now_s)
        self.ledger.sweep()

    @rule(everything=st.booleans())
    def report(self, everything: bool) -> None:
        for loads in self.ledger.loads(everything=everything):
            if loads.complete:
                self.reported.clear()
            self.reported.update(zip(named(loads), loads.rows.tolist(), strict=True))
        sums: dict[str, list[float]] = {}
        for leg in self.open:
            row = sums.setdefault(leg.address, [0.0, 0.0, 0.0])
            row[0] += 1
            row[1] += 0 if leg.prefill_done else leg.uncached_tokens
            row[2] += leg.prompt_tokens + leg.output_tokens
        assert {a: row for a, row in self.reported.items() if row != [0, 0, 0]} == sums

    @rule(addresses=st.sets(ADDRESSES))
    def endpoints_change(self, addresses: set[str]) -> None:
        self.pool.sync([EndpointSpec(address) for address in sorted(addresses)])

    @invariant()
    def columns_are_the_sums(self) -> None:
        view = self.pool.view
        requests, prefill, kv = (np.zeros(self.pool.slots) for _ in range(3))
        for leg in self.open:
            if leg.in_columns:
                requests[leg.slot] += 1
                prefill[leg.slot] += 0 if leg.prefill_done else leg.uncached_tokens
                kv[leg.slot] += leg.prompt_tokens + leg.output_tokens
        assert view.in_flight_requests.tolist() == requests.tolist()
        assert view.in_flight_prefill_tokens.tolist() == prefill.tolist()
        assert view.in_flight_kv_tokens.tolist() == kv.tolist()
        assert len(self.ledger) == len(self.open)


TestLedgerMachine = LedgerMachine.TestCase
