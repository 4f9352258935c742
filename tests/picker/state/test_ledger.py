"""The in-flight ledger: examples, then any order of events against the sums it must show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker.flight.ledger import InFlight, Ledger
from picker.state.endpoints import EndpointSpec, PoolState

A, B = "10.0.0.1:8000", "10.0.0.2:8000"


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
    lease_s: float = 600.0,
) -> InFlight:
    return ledger.open(
        id,
        pool="chat",
        address=address,
        prompt_tokens=prompt,
        uncached_tokens=prompt if uncached is None else uncached,
        output_tokens=output,
        now_s=now_s,
        lease_s=lease_s,
    )


def columns(pool: PoolState, address: str = A) -> tuple[float, float, float]:
    slot, view = pool.slot_of[address], pool.view
    return (
        float(view.in_flight_requests[slot]),
        float(view.in_flight_prefill_tokens[slot]),
        float(view.in_flight_kv_tokens[slot]),
    )


def test_a_request_counts_at_once_and_until_it_ends() -> None:
    pool, ledger = fresh()
    entry = send(ledger, "r1", prompt=1_000, uncached=400)
    assert columns(pool) == (1, 400, 1_100)
    assert columns(pool, B) == (0, 0, 0)
    assert entry.backlog_tokens == 0
    assert send(ledger, "r2").backlog_tokens == 400
    assert ledger.in_flight("chat", A) == 2
    assert ledger.close("r1") is entry
    ledger.close("r2")
    assert columns(pool) == (0, 0, 0)
    assert ledger.in_flight("chat", A) == len(ledger) == 0


def test_closing_twice_or_something_unknown_does_nothing() -> None:
    pool, ledger = fresh()
    send(ledger, "r1")
    send(ledger, "r2")
    ledger.close("r1")
    assert ledger.close("r1") is None
    assert ledger.close("never") is None
    assert columns(pool)[0] == 1


def test_an_id_in_flight_and_an_unknown_endpoint_are_refused() -> None:
    pool, ledger = fresh()
    send(ledger, "r1")
    with pytest.raises(ValueError, match="'r1' is already in flight"):
        send(ledger, "r1")
    with pytest.raises(KeyError):
        send(ledger, "r2", "10.9.9.9:1")
    assert columns(pool)[0] == 1


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
    send(ledger, "short", prompt=100, now_s=0.1)
    send(ledger, "later", prompt=300, now_s=0.2)
    ledger.close("short", ttft_s=2.0, now_s=2.1)
    assert columns(pool)[1] == 300
    assert columns(pool)[0] == 2


def test_an_aborted_prefill_frees_the_time_of_those_behind_it() -> None:
    _, ledger = fresh()
    send(ledger, "keep", prompt=80, now_s=0.0)
    send(ledger, "abort", prompt=800_000, now_s=0.0)
    ledger.close("abort", now_s=0.0)
    assert send(ledger, "next", prompt=80, now_s=0.0).prefill_due_s < 1.0


def test_leases_give_back_what_nobody_closed() -> None:
    pool, ledger = fresh()
    send(ledger, "r1", now_s=0.0, lease_s=60)
    send(ledger, "r2", now_s=0.0, lease_s=61)
    assert ledger.expire(59.9) == []
    assert [entry.id for entry in ledger.expire(60.0)] == ["r1"]
    assert [entry.id for entry in ledger.expire(500.0)] == ["r2"]
    assert ledger.expire(500.0) == []
    assert columns(pool) == (0, 0, 0)


def test_an_idle_engine_closes_old_entries_only() -> None:
    pool, ledger = fresh()
    send(ledger, "leaked", now_s=0.0)
    send(ledger, "young", now_s=8.0)
    send(ledger, "elsewhere", B, now_s=0.0)
    closed = ledger.reconcile("chat", A, idle_since_s=10.0, grace_s=5.0)
    assert [entry.id for entry in closed] == ["leaked"]
    assert columns(pool)[0] == columns(pool, B)[0] == 1


def test_a_removed_endpoint_takes_its_entries_with_it() -> None:
    pool, ledger = fresh()
    send(ledger, "r1")
    send(ledger, "r2", B)
    pool.sync([EndpointSpec(B)])
    assert [entry.id for entry in ledger.close_endpoint("chat", A)] == ["r1"]
    assert "r1" not in ledger
    assert "r2" in ledger
    assert ledger.close_endpoint("chat", A) == []


def test_an_end_that_arrives_after_the_slot_went_to_another_endpoint_changes_nothing() -> None:
    pool, ledger = fresh(A)
    send(ledger, "old")
    pool.sync([EndpointSpec(B)])
    send(ledger, "new", B, prompt=500)
    assert ledger.close("old") is not None
    assert columns(pool, B) == (1, 500, 600)


def test_a_pool_that_is_gone_does_not_break_closing() -> None:
    pool = PoolState("chat", stale_after_s=5)
    pool.sync([EndpointSpec(A)])
    pools = {"chat": pool}
    ledger = Ledger(pools)
    send(ledger, "r1")
    again = PoolState("chat", stale_after_s=5)
    again.sync([EndpointSpec(A)])
    pools["chat"] = again
    assert ledger.close("r1") is not None
    assert columns(again) == (0, 0, 0)


ADDRESSES = st.sampled_from([f"10.0.0.{n}:8000" for n in range(1, 5)])
TOKENS = st.floats(0, 50_000)


class LedgerMachine(RuleBasedStateMachine):
    """Columns equal the sum of open entries, whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.ledger = fresh()
        self.now_s = 0.0
        self.open: dict[str, InFlight] = {}
        self.ids = 0

    @rule(address=ADDRESSES, prompt=TOKENS, uncached=TOKENS, output=TOKENS, lease=st.floats(1, 90))
    def send(
        self, address: str, prompt: float, uncached: float, output: float, lease: float
    ) -> None:
        if address not in self.pool.slot_of:
            return
        self.ids += 1
        id = str(self.ids)  # noqa: A001
        self.open[id] = send(
            self.ledger,
            id,
            address,
            prompt=prompt,
            uncached=uncached,
            output=output,
            now_s=self.now_s,
            lease_s=lease,
        )

    @rule(data=st.data(), ttft_s=st.none() | st.floats(0, 30), told=st.booleans())
    def close(self, data: st.DataObject, ttft_s: float | None, told: bool) -> None:
        if self.ids == 0:
            return
        id = str(data.draw(st.integers(1, self.ids)))  # noqa: A001
        closed = self.ledger.close(id, ttft_s=ttft_s, now_s=self.now_s if told else None)
        assert closed is self.open.pop(id, None)

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.ledger.settle_prefills(self.now_s)

    @rule()
    def expire(self) -> None:
        expired = {entry.id for entry in self.ledger.expire(self.now_s)}
        due = {i for i, entry in self.open.items() if entry.lease_until_s <= self.now_s}
        assert expired == due
        self._forget(expired)

    @rule(address=ADDRESSES)
    def engine_is_idle(self, address: str) -> None:
        closed = self.ledger.reconcile("chat", address, idle_since_s=self.now_s, grace_s=5)
        self._forget({entry.id for entry in closed})

    @rule(addresses=st.sets(ADDRESSES))
    def endpoints_change(self, addresses: set[str]) -> None:
        changes = self.pool.sync([EndpointSpec(address) for address in sorted(addresses)])
        for address in changes.removed:
            closed = self.ledger.close_endpoint("chat", address)
            self._forget({entry.id for entry in closed})

    def _forget(self, ids: set[str]) -> None:
        for id in ids:  # noqa: A001
            del self.open[id]

    @invariant()
    def columns_are_the_sums_of_open_entries(self) -> None:
        view = self.pool.view
        requests, prefill, kv = (np.zeros(self.pool.slots) for _ in range(3))
        for entry in self.open.values():
            requests[entry.slot] += 1
            prefill[entry.slot] += 0 if entry.prefill_done else entry.uncached_tokens
            kv[entry.slot] += entry.prompt_tokens + entry.output_tokens
        assert view.in_flight_requests.tolist() == requests.tolist()
        assert view.in_flight_prefill_tokens.tolist() == prefill.tolist()
        assert view.in_flight_kv_tokens.tolist() == kv.tolist()
        assert len(self.ledger) == len(self.open)


TestLedgerMachine = LedgerMachine.TestCase
