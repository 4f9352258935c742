"""Reports of endpoints: only what has changed, and together always the whole picture."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from gateway.control.reporter import EndpointReporter
from gateway.control.server import WorkerReport
from picker.state.endpoints import PoolState
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.state.spec import EndpointKey, EndpointSpec
from picker.wire import control_pb2
from tests.picker.fleet import IDLE, load

A, B = "10.0.0.1:80", "10.0.0.2:80"


def pool_with(*addresses: str) -> PoolState:
    state = PoolState("chat", stale_after_s=5.0)
    state.sync([EndpointSpec(address) for address in addresses])
    for address in addresses:
        state.apply_signals(address, IDLE, 0.0)
        state.apply_models(address, [ServedModel("m", None, None)])
    return state


class Reports:
    """What a reporter says, report by report."""

    def __init__(self, pools: dict[str, PoolState]) -> None:
        self.reporter = EndpointReporter(
            pools,
            lambda *one: self.in_flight.get(one, 0),
            lambda *_: self.tripped,
            lambda _: self.caches,
        )
        self.caches: dict[int, str] = {}
        self.in_flight: dict[EndpointKey, int] = {}
        self.tripped: dict[int, str] = {}
        self.removed: list[EndpointKey] = []

    def next(self, now_s: float = 0.0) -> control_pb2.Report:
        report = control_pb2.Report()
        self.reporter.fill(report, now_s=now_s, removed=self.removed)
        return report


def test_how_a_cache_is_known_is_reported_when_that_changes() -> None:
    reports = Reports({"chat": pool_with(A, B)})
    assert [one.cache for one in reports.next().endpoints] == ["", ""]
    slot = reports.reporter._pools["chat"].slot_of[B]
    for known in ("events", "missing", ""):
        reports.caches = {slot: known} if known else {}
        (one,) = reports.next().endpoints
        assert (one.address, one.healthy, one.cache) == (B, True, known)
        assert not reports.next().endpoints


def test_an_open_breaker_is_reported_every_time_and_its_end_once() -> None:
    reports = Reports({"chat": pool_with(A, B)})
    reports.next()
    slot = reports.reporter._pools["chat"].slot_of[B]
    for left in ("9 s", "8 s"):
        reports.tripped = {slot: left}
        (one,) = reports.next().endpoints
        assert (one.address, one.healthy, one.breaker) == (B, True, left)
    reports.tripped = {}
    (one,) = reports.next().endpoints
    assert (one.address, one.breaker) == (B, "")
    assert not reports.next().endpoints


def addresses(report: control_pb2.Report) -> list[str]:
    return [endpoint.address for endpoint in report.endpoints]


def test_the_first_report_has_everything_the_next_one_nothing() -> None:
    state = pool_with(A, B)
    state.apply_models(B, [])
    reports = Reports({"chat": state})
    reports.in_flight = {("chat", A): 2}
    state.apply_signals(B, load(1, 0.5), 0.0)
    first = reports.next()
    assert list(first.endpoints) == [
        control_pb2.EndpointReport(
            pool="chat", address=A, healthy=True, in_flight_requests=2, kv_usage=0.1, models=["m"]
        ),
        control_pb2.EndpointReport(
            pool="chat",
            address=B,
            problem="GET /v1/models lists no model",
            waiting_requests=1,
            kv_usage=0.5,
        ),
    ]
    assert addresses(reports.next()) == [B], "the reason may be new"
    reports.reporter.forget()
    assert reports.next() == first


def test_whatever_changes_is_reported() -> None:
    state = pool_with(A, B)
    reports = Reports({"chat": state})
    reports.next()
    state.apply_signals(A, load(1, 0.1), 0.0)
    assert addresses(reports.next()) == [A]
    state.apply_models(B, [ServedModel("n", None, None)])
    assert addresses(reports.next()) == [B]
    state.apply_models(B, [ServedModel("n", None, None)])
    assert addresses(reports.next()) == []
    reports.in_flight = {("chat", A): 1}
    assert addresses(reports.next()) == [A]
    reports.in_flight = {}
    assert addresses(reports.next()) == [A]
    state.sync([EndpointSpec(A), EndpointSpec(B, draining=True)])
    assert [(one.address, one.problem) for one in reports.next().endpoints] == [(B, "draining")]
    state.sync([EndpointSpec(A), EndpointSpec(B)])
    assert [(one.address, one.problem) for one in reports.next().endpoints] == [(B, "")]
    state.mark_failed(A, 0.0, "refused")
    assert [(one.address, one.problem) for one in reports.next().endpoints] == [(A, "refused")]
    state.mark_failed(A, 0.0, "timed out")
    assert [(one.address, one.problem) for one in reports.next().endpoints] == [(A, "timed out")]


def test_why_an_endpoint_is_not_healthy_is_reported_every_time() -> None:
    state = pool_with(A, B)
    reports = Reports({"chat": state})
    reports.next()
    assert addresses(reports.next(5.0)) == []
    state.apply_signals(B, IDLE, 5.0)
    reports.next(5.0)
    for now_s, problem in ((6.0, "no answer for 6.0 s"), (7.0, "no answer for 7.0 s")):
        (late,) = reports.next(now_s).endpoints
        assert (late.address, late.healthy, late.problem) == (A, False, problem)
    state.mark_failed(B, 8.0, "refused")
    (late, failed) = reports.next(8.0).endpoints
    assert (late.healthy, late.problem) == (True, "no answer for 8.0 s"), "better than nothing"
    assert (failed.healthy, failed.problem) == (False, "refused")


def test_why_the_load_of_an_endpoint_is_not_known_is_reported() -> None:
    state = pool_with(A, B)
    reports = Reports({"chat": state})
    reports.next()
    state.apply_lack(A, Lack.SIGNALS, "GET /metrics: status 404", 1.0)
    assert addresses(reports.next(1.0)) == [], "what was read lately still holds"
    state.apply_lack(A, Lack.SIGNALS, "GET /metrics: status 404", 6.0)
    state.apply_lack(B, Lack.SIGNALS, "", 6.0)
    for now_s in (6.0, 7.0):
        found = {one.address: one for one in reports.next(now_s).endpoints}
        assert (found[A].healthy, found[A].warning) == (True, "GET /metrics: status 404")
    assert B not in found, "no load is expected of it"


def test_an_endpoint_that_takes_over_a_slot_is_reported_and_the_old_one_gone() -> None:
    state = pool_with(A)
    reports = Reports({"chat": state})
    reports.next()
    state.sync([EndpointSpec(B)])
    state.apply_signals(B, IDLE, 0.0)
    report = reports.next()
    assert addresses(report) == [B]
    assert [(gone.pool, gone.address) for gone in report.gone] == [("chat", A)]


def test_endpoints_of_a_removed_pool_are_reported_until_they_are_gone() -> None:
    pools = {"chat": pool_with(A)}
    reports, merged = Reports(pools), WorkerReport()
    reports.in_flight = {("chat", A): 2}
    merged.merge(reports.next())
    del pools["chat"]
    reports.removed = [("chat", A)]
    merged.merge(reports.next())
    left = merged.endpoints["chat", A]
    assert (left.healthy, left.problem) == (False, "its pool is being removed")
    assert left.in_flight_requests == 2
    reports.in_flight = {}
    merged.merge(reports.next())
    assert merged.in_flight(("chat", A)) == 0
    reports.removed = []
    merged.merge(reports.next())
    assert merged.endpoints == {}


ADDRESSES = st.sampled_from([f"10.0.0.{n}:80" for n in range(1, 13)])
"""More than the first slots: the columns grow."""
POOLS = st.sampled_from(["chat", "code"])


class ReporterMachine(RuleBasedStateMachine):
    """Reports merged one after the other are the picture that one report of everything gives."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = {"chat": PoolState("chat", stale_after_s=5.0)}
        self.reports = Reports(self.pools)
        self.merged = WorkerReport()
        self.now_s = 0.0

    @rule(pool=POOLS, wanted=st.dictionaries(ADDRESSES, st.booleans()))
    def endpoints_change(self, pool: str, wanted: dict[str, bool]) -> None:
        if pool in self.pools:
            self.pools[pool].sync(EndpointSpec(one, draining) for one, draining in wanted.items())

    @rule(pool=POOLS)
    def a_pool_comes_or_goes(self, pool: str) -> None:
        if pool not in self.pools:
            self.pools[pool] = PoolState(pool, stale_after_s=5.0)
            self.reports.removed = [one for one in self.reports.removed if one[0] != pool]
        else:
            state = self.pools.pop(pool)
            self.reports.removed += [(pool, address) for address in state.slot_of]

    @rule(pool=POOLS, address=ADDRESSES, waiting=st.integers(0, 2))
    def signals_come(self, pool: str, address: str, waiting: int) -> None:
        if pool in self.pools:
            signals = replace(IDLE, waiting_requests=waiting)
            self.pools[pool].apply_signals(address, signals, self.now_s)

    @rule(pool=POOLS, address=ADDRESSES, models=st.lists(st.sampled_from("ab"), unique=True))
    def models_come(self, pool: str, address: str, models: list[str]) -> None:
        if pool in self.pools:
            listed = [ServedModel(name, None, None) for name in models]
            self.pools[pool].apply_models(address, listed)

    @rule(pool=POOLS, address=ADDRESSES)
    def it_fails(self, pool: str, address: str) -> None:
        if pool in self.pools:
            self.pools[pool].mark_failed(address, self.now_s, "refused")

    @rule(pool=POOLS, address=ADDRESSES, lack=st.sampled_from(Lack))
    def something_is_missing(self, pool: str, address: str, lack: Lack) -> None:
        if pool in self.pools:
            self.pools[pool].apply_lack(address, lack, f"no {lack}", self.now_s)

    @rule(pool=POOLS, address=ADDRESSES, requests=st.integers(0, 3))
    def requests_come_and_go(self, pool: str, address: str, requests: int) -> None:
        self.reports.in_flight[pool, address] = requests

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def the_line_breaks(self) -> None:
        self.reports.reporter.forget()
        self.merged = WorkerReport()

    @rule()
    def the_merged_picture_is_the_whole_one(self) -> None:
        self.merged.merge(self.reports.next(self.now_s))
        whole, other = WorkerReport(), Reports(self.pools)
        other.in_flight, other.removed = self.reports.in_flight, self.reports.removed
        whole.merge(other.next(self.now_s))
        assert self.merged.endpoints == whole.endpoints


TestReporterMachine = ReporterMachine.TestCase
