"""Supervisor and worker over a real unix socket: assignments one way, reports the other."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gateway.control.assignment import Assignment
from gateway.control.client import ControlClient
from gateway.control.server import ControlServer
from picker.state.spec import EndpointChanges, EndpointSpec
from picker.wire import control_pb2

A, B = EndpointSpec("10.0.0.1:80"), EndpointSpec("10.0.0.2:80", draining=True)


class Worker:
    """A worker that reports what a test says and notes what it is assigned."""

    def __init__(self, socket: Path, name: str = "picker-0") -> None:
        self.name = name
        self.assigned: list[Assignment] = []
        self.wholes: list[bool] = []
        self.endpoints: list[control_pb2.EndpointReport] = []
        self.gone: list[control_pb2.EndpointName] = []
        self.client = ControlClient(socket, report=self._report)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.client.run())
            group.create_task(self._follow())

    async def _follow(self) -> None:
        async for assignment in self.client.changes():
            self.assigned.append(assignment)

    def _report(self, whole: bool) -> control_pb2.Report:
        self.wholes.append(whole)
        report = control_pb2.Report(
            worker=self.name,
            pid=7,
            picker_id=f"{self.name}.id",
            applied_version=self.assigned[-1].version if self.assigned else 0,
            ready=True,
            endpoints=self.endpoints,
            gone=self.gone,
        )
        self.endpoints, self.gone = [], []
        return report


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pk") as name:  # unix sockets' paths are short
        yield Path(name) / "control.sock"


@pytest.fixture
async def server(socket: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(socket, lambda: None)
    await server.start()
    yield server
    await server.stop()


@contextlib.asynccontextmanager
async def attached(socket: Path, name: str = "picker-0") -> AsyncIterator[Worker]:
    worker = Worker(socket, name)
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker.assigned)
        yield worker
    finally:
        running.cancel()
        await asyncio.wait({running})


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.005)


def report(address: str, in_flight: int = 0, *, healthy: bool = True) -> control_pb2.EndpointReport:
    return control_pb2.EndpointReport(
        pool="chat", address=address, healthy=healthy, in_flight_requests=in_flight
    )


async def test_a_worker_gets_everything_then_only_changes(
    server: ControlServer, socket: Path
) -> None:
    server.configure(b"{}")
    server.change_endpoints([EndpointChanges("chat", (A, B))])
    async with attached(socket) as worker:
        await until(lambda: server.reports)
        first = worker.assigned[0]
        assert first.configuration == b"{}"
        assert first.endpoints == (EndpointChanges("chat", (A, B)),)
        assert worker.client.endpoints == {"chat": {A.address: A, B.address: B}}
        await until(lambda: worker.assigned[-1].live_pickers == {"picker-0.id"})
        version = server.change_endpoints([EndpointChanges("chat", deletes=(B.address,))])
        await until(lambda: worker.assigned[-1].version == version)
        latest = worker.assigned[-1]
        assert latest.configuration is None
        assert latest.endpoints == (EndpointChanges("chat", deletes=(B.address,)),)
        await until(lambda: server.all_have_applied(version))


async def test_messages_may_be_long(server: ControlServer, socket: Path) -> None:
    server.configure(b" " * (5 << 20))
    async with attached(socket) as worker:
        assert len(worker.assigned[0].configuration or b"") == 5 << 20
        worker.endpoints = [
            report(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80") for n in range(200_000)
        ]
        await until(lambda: server.reports and len(server.reports["picker-0"].endpoints) == 200_000)


async def test_the_changes_of_one_turn_are_one_message(server: ControlServer, socket: Path) -> None:
    async with attached(socket) as worker:
        await until(lambda: worker.assigned[-1].live_pickers)
        before = len(worker.assigned)
        server.change_endpoints([EndpointChanges("chat", (A,))])
        server.change_endpoints([EndpointChanges("chat", (B,))])
        version = server.registry_written()
        await until(lambda: worker.assigned[-1].version == version)
        assert len(worker.assigned) == before + 1
        assert worker.assigned[-1].endpoints == (EndpointChanges("chat", (A, B)),)
        assert worker.assigned[-1].registry_generation == 1


async def test_after_a_broken_line_both_ends_begin_anew(
    server: ControlServer, socket: Path
) -> None:
    server.configure(b"{}")
    server.change_endpoints([EndpointChanges("chat", (A, B))])
    async with attached(socket) as worker:
        worker.endpoints = [report(A.address, 3)]
        await until(lambda: server.in_flight(("chat", A.address)) == 3)
        assert worker.wholes[:2] == [True, False]
        await server.stop()
        assert server.reports == {}
        before, since = len(worker.assigned), len(worker.wholes)
        another = ControlServer(socket, lambda: None)
        await another.start()
        another.configure(b"{}")
        another.change_endpoints([EndpointChanges("chat", (A,))])
        await until(lambda: len(worker.assigned) > before and another.reports)
        assert worker.wholes[since:].count(True) >= 1
        changed = worker.assigned[before]
        assert changed.configuration is None, "it works by this one already"
        assert changed.endpoints == (EndpointChanges("chat", deletes=(B.address,)),)
        assert another.in_flight(("chat", A.address)) == 0
        await another.stop()


async def test_reports_are_merged_by_worker(server: ControlServer, socket: Path) -> None:
    a, b = ("chat", A.address), ("chat", B.address)
    async with attached(socket) as one, attached(socket, "picker-1") as two:
        one.endpoints = [report(A.address, 2, healthy=False), report(B.address, 1)]
        two.endpoints = [report(A.address, 3)]
        await until(lambda: (server.in_flight(a), server.in_flight(b)) == (5, 1))
        assert server.is_healthy(a)
        one.endpoints = [report(B.address, 0, healthy=False)]
        await until(lambda: server.in_flight(b) == 0)
        assert server.in_flight(a) == 5, "what is not reported again stays"
        assert not server.is_healthy(b)
        one.gone = [control_pb2.EndpointName(pool="chat", address=A.address)]
        await until(lambda: server.in_flight(a) == 3)
        assert server.reports["picker-0"].endpoints.keys() == {b}


async def test_a_worker_that_goes_takes_its_reports_with_it(socket: Path) -> None:
    reported = 0

    def count() -> None:
        nonlocal reported
        reported += 1

    server = ControlServer(socket, count)
    await server.start()
    async with attached(socket, "picker-1") as stays:
        async with attached(socket) as worker:
            worker.endpoints = [report(A.address, 2)]
            await until(lambda: server.in_flight(("chat", A.address)) == 2)
            await until(lambda: len(stays.assigned[-1].live_pickers) == 2)
        await until(lambda: server.reports.keys() == {"picker-1"})
        await until(lambda: stays.assigned[-1].live_pickers == {"picker-1.id"})
        before = reported
        await until(lambda: reported > before)
    await server.stop()


async def test_a_report_that_is_waited_for_comes_at_once(
    server: ControlServer, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.client._REPORT_S", 3_600.0)
    async with attached(socket) as worker:
        await until(lambda: server.reports)
        worker.endpoints = [report(A.address, 3)]
        worker.client.report_now()
        await until(lambda: server.in_flight(("chat", A.address)) == 3)
        worker.endpoints = [report(A.address, 2)]
        worker.client.report_now()
        await until(lambda: server.in_flight(("chat", A.address)) == 2)
