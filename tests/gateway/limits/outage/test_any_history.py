"""Any history of requests, failures and losses: every end gives back exactly what was taken."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import date
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.outage.states import StoreMode
from gateway.limits.usage import UsageRecord
from policies.limits.plan import OnStoreFailure
from policies.limits.types import Bucket, CalendarWindow, Concurrency, Dimension, Period, Take
from policies.limits.verdict import Granted
from tests.gateway.limits.outage.faulty import FaultyStore
from tests.gateway.limits.outage.parts import fallback

DAY = date(2026, 3, 1)
TOKENS = Bucket("t", Dimension.TOTAL_TOKENS, CalendarWindow(10**6, Period.MONTH))
TOGETHER = Bucket("c", Dimension.CONCURRENCY, Concurrency(1_000))
TAKES = [Take(TOKENS, 10), Take(TOGETHER, 1)]
LEASE_S = 600.0
T = TypeVar("T")


class History(RuleBasedStateMachine):
    mode = OnStoreFailure.OPEN

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.remote = FaultyStore()
        self.store = fallback(self.remote, self.mode, retry_s=0, max_retry_s=0)
        self.count = 0
        self.running: list[str] = []
        self.ended: list[tuple[str, int]] = []
        self.settled = 0
        """Requests that were settled for more than nothing."""
        self.required = 0
        """Of these, how many the store must have counted in the end."""
        self.fine = True
        self.silent = False
        """The store lost data without a sign. A settlement that has no answer then is given up,
        because it may have been done before."""

    def run(self, call: Coroutine[object, object, T]) -> T:
        return self.runner.run(call)

    def teardown(self) -> None:
        try:
            self.run(self.all_is_well_in_the_end())
        finally:
            self.runner.close()

    @rule(turns=st.integers(1, 30))
    def time_passes(self, turns: int) -> None:
        async def wait() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(wait())

    @rule(
        weather=st.sampled_from(["fine", "fine", "dead", "late", "mixed"]),
        lost=st.booleans(),
    )
    def weather_changes(self, weather: str, lost: bool) -> None:
        calls = 0
        self.fine = weather == "fine"
        if self.silent and not self.fine:
            self.required = 0

        def fails() -> tuple[bool, StoreUnavailable | None]:
            nonlocal calls
            calls += 1
            works = weather == "fine" or (weather == "mixed" and calls % 3 == 0)
            error = None if works else StoreUnavailable("faulty", lost=lost)
            return weather == "late" or calls % 2 == 0, error

        self.remote.fails = fails

    @rule(signalled=st.booleans())
    def the_store_loses_its_data(self, signalled: bool) -> None:
        async def lose() -> None:
            self.remote.lose_data()
            if signalled:
                self.store.lost()

        self.run(lose())
        self.required, self.silent = 0, not signalled

    @rule()
    def a_false_alarm(self) -> None:
        async def alarm() -> None:
            self.store.lost()

        self.run(alarm())

    @rule(turns=st.none() | st.integers(0, 4))
    def reserve(self, turns: int | None) -> None:
        """``turns``: of the loop until the client leaves."""
        self.count += 1
        id_ = f"r{self.count}"

        async def ask() -> None:
            asking = asyncio.create_task(self.store.reserve("acme", id_, TAKES, LEASE_S))
            if turns is not None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                if asking.cancel():
                    await asyncio.wait({asking})
            try:
                verdict = await asking
            except StoreUnavailable:
                assert self.mode is OnStoreFailure.CLOSED
            except asyncio.CancelledError:
                pass
            else:
                assert isinstance(verdict, Granted)
                self.running.append(id_)

        self.run(ask())

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(self.running), unique=True, min_size=1))
        assert self.run(self.store.renew("acme", some, LEASE_S)) == len(some)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.none() | st.integers(0, 30))
    def settle(self, data: st.DataObject, tokens: int | None) -> None:
        """``tokens``: None: it was not served."""
        id_ = data.draw(st.sampled_from(self.running))
        self.running.remove(id_)
        if tokens is None:
            self.run(self.store.settle("acme", id_, {}))
            return
        self.settled += 1
        self.required += self.fine or not self.silent
        self.ended.append((id_, tokens))
        self.run(self.end(id_, tokens))

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        self.run(self.end(*data.draw(st.sampled_from(self.ended))))

    async def end(self, id_: str, tokens: int) -> None:
        usage = UsageRecord(DAY, "k", "u", "m", tokens, 0, 0, 0)
        await self.store.settle("acme", id_, {"t": tokens}, usage)

    async def all_is_well_in_the_end(self) -> None:
        self.remote.fails = lambda: (False, None)
        await self.mended()
        await self.store.renew("acme", self.running, LEASE_S)  # it hears of a silent loss
        await self.mended()
        await self.check(len(self.running))
        for id_ in self.running:
            await self.store.settle("acme", id_, {})
        await self.mended()
        await self.check(0)
        assert not self.store._records._running

    async def mended(self) -> None:
        for _ in range(10_000):
            if self.store.mode is StoreMode.UP and not self.store.pending:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"it stays {self.store.mode}")

    async def check(self, held: int) -> None:
        rows = await self.store.usage("acme", DAY, DAY)
        assert self.required <= sum(row.requests for row in rows) <= self.settled
        tokens = sum(row.input_tokens for row in rows)
        standings = await self.store.standing("acme", [TOKENS, TOGETHER])
        assert [s.remaining for s in standings] == [10**6 - tokens - 10 * held, 1_000 - held]


@pytest.mark.parametrize("mode", OnStoreFailure)
def test_any_history_ends_well(mode: OnStoreFailure) -> None:
    class OfMode(History):
        pass

    OfMode.mode = mode
    run_state_machine_as_test(
        OfMode,
        settings=settings(
            max_examples=150,
            deadline=None,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
