"""The assignment in force: whoever follows its changes has the same picture as whoever reads it
whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.control.assignment import Assignment, Board, Reader
from gateway.control.assignment_wire import from_assignment, to_assignment
from picker.request.role import Role
from picker.state.spec import EndpointChanges, EndpointSpec, changes_between
from picker.wire import control_pb2

A, B = EndpointSpec("10.0.0.1:80"), EndpointSpec("10.0.0.2:80")

SPECS = st.builds(
    EndpointSpec,
    st.sampled_from([f"10.0.0.{n}:80" for n in range(1, 5)]),
    st.booleans(),
    st.sampled_from(Role),
    st.none() | st.integers(0, 7),
    st.dictionaries(st.sampled_from("abc"), st.text(max_size=2)).map(
        lambda labels: tuple(sorted(labels.items()))
    ),
)
ENDPOINTS = st.dictionaries(st.sampled_from(["chat", "code"]), st.lists(SPECS, max_size=4))


def over_the_wire(assignment: Assignment) -> Assignment:
    """As it arrives at a worker."""
    data = from_assignment(assignment).SerializeToString()
    return to_assignment(control_pb2.Assignment.FromString(data))


def put(board: Board, assignment: Assignment) -> None:
    board.put(replace(assignment, version=board.latest.version + 1))


def everything(board: Board) -> Assignment:
    with board.reading() as reader:
        return reader.read()


def one_change(*upserts: EndpointSpec, deletes: Sequence[str] = ()) -> Assignment:
    return Assignment(endpoints=(EndpointChanges("chat", upserts, tuple(deletes)),))


class Follower:
    """A worker: a copy of the board, and what it has applied of it."""

    def __init__(self) -> None:
        self.board = Board()
        self.line: Reader | None = None
        self.lines, self.own = ExitStack(), ExitStack()
        self.reader = self.own.enter_context(self.board.reading())
        self.endpoints: dict[str, dict[str, EndpointSpec]] = {}
        self.applied = Assignment()
        self.configurations: list[bytes] = []

    def attach(self, to: Board) -> None:
        self.line = self.lines.enter_context(to.reading())

    def detach(self) -> None:
        self.lines.close()
        self.line = None

    def receive(self) -> None:
        assert self.line is not None
        self.board.put(over_the_wire(self.line.read()))

    def apply(self) -> None:
        self.applied = self.reader.read()
        if self.applied.configuration is not None:
            self.configurations.append(self.applied.configuration)
        for changes in self.applied.endpoints:
            endpoints = self.endpoints.setdefault(changes.pool, {})
            assert changes, "a change that changes nothing"
            changes.apply_to(endpoints)
            if not endpoints:
                del self.endpoints[changes.pool]


class BoardMachine(RuleBasedStateMachine):
    """Two workers attach, receive, apply and lose their line in any order while the supervisor
    changes the assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()
        self.workers = [Follower(), Follower()]

    @rule(wanted=ENDPOINTS)
    def endpoints_change(self, wanted: dict[str, list[EndpointSpec]]) -> None:
        changes = [
            changes_between(pool, self.board.endpoints.get(pool, {}), wanted.get(pool, ()))
            for pool in ("chat", "code")
        ]
        put(self.board, replace(self.board.latest, endpoints=tuple(filter(None, changes))))

    @rule(configuration=st.sampled_from([b"{}", b'{"pools": []}']))
    def is_configured(self, configuration: bytes) -> None:
        put(self.board, replace(self.board.latest, configuration=configuration))

    @rule(live=st.frozensets(st.sampled_from("abc")))
    def something_happens(self, live: frozenset[str]) -> None:
        latest = self.board.latest
        put(
            self.board,
            replace(latest, live_pickers=live, crash_generation=latest.crash_generation + 1),
        )

    @rule(index=st.integers(0, 1))
    def attaches(self, index: int) -> None:
        self.workers[index].detach()
        self.workers[index].attach(self.board)
        self.workers[index].receive()

    @rule(index=st.integers(0, 1))
    def detaches(self, index: int) -> None:
        self.workers[index].detach()

    @precondition(lambda self: any(worker.line for worker in self.workers))
    @rule(apply=st.booleans())
    def receive(self, *, apply: bool) -> None:
        for worker in self.workers:
            if worker.line is not None:
                worker.receive()
                if apply:
                    worker.apply()

    @invariant()
    def who_has_received_and_applied_everything_has_the_whole_picture(self) -> None:
        whole = everything(self.board)
        for worker in self.workers:
            if worker.board.latest.version == self.board.latest.version:
                assert worker.board.endpoints == self.board.endpoints
                assert worker.board.configuration == whole.configuration
            if worker.applied.version == self.board.latest.version:
                assert worker.endpoints == self.board.endpoints
                assert worker.configurations[-1:] == [whole.configuration] * (
                    whole.configuration is not None
                )
                assert worker.applied.live_pickers == whole.live_pickers
                assert worker.applied.crash_generation == whole.crash_generation


TestBoardMachine = BoardMachine.TestCase


@given(ENDPOINTS, st.none() | st.binary(), st.frozensets(st.text(max_size=3)), st.booleans())
def test_the_wire_keeps_everything(
    endpoints: dict[str, list[EndpointSpec]],
    configuration: bytes | None,
    live: frozenset[str],
    whole: bool,
) -> None:
    assignment = Assignment(
        version=7,
        configuration=configuration,
        endpoints=tuple(
            EndpointChanges(pool, tuple(specs), ("10.9.9.9:1",))
            for pool, specs in endpoints.items()
        ),
        whole=whole,
        proxy_generation=1,
        registry_generation=2,
        crash_generation=3,
        live_pickers=live,
    )
    assert over_the_wire(assignment) == assignment


def test_a_reader_gets_everything_then_only_what_is_new() -> None:
    board = Board()
    put(board, Assignment(configuration=b"{}"))
    put(board, one_change(A, B))
    with board.reading() as reader:
        first = reader.read()
        assert (first.whole, first.configuration) == (True, b"{}")
        assert first.endpoints == (EndpointChanges("chat", (A, B)),)
        put(board, one_change(replace(A, draining=True)))
        assert reader.read() == Assignment(
            version=3, endpoints=(EndpointChanges("chat", (replace(A, draining=True),)),)
        )
        assert reader.read() == Assignment(version=3)


def test_several_changes_are_read_as_one() -> None:
    board = Board()
    with board.reading() as reader:
        reader.read()
        put(board, one_change(A, B))
        put(board, one_change(replace(A, draining=True), deletes=(B.address,)))
        put(board, Assignment(configuration=b"{}"))
        changes = EndpointChanges("chat", (replace(A, draining=True),), (B.address,))
        assert reader.read() == Assignment(version=3, configuration=b"{}", endpoints=(changes,))


def test_a_configuration_that_is_in_force_already_is_no_news() -> None:
    board = Board()
    put(board, Assignment(configuration=b"{}"))
    copy = Board()
    with copy.reading() as reader:
        copy.put(everything(board))
        assert reader.read().configuration == b"{}"
        copy.put(everything(board))  # the line broke, and the worker has attached anew
        assert reader.read() == Assignment(version=1)


async def test_news_wakes_a_reader_once() -> None:
    board = Board()
    with board.reading() as reader:
        waiting = asyncio.create_task(reader.news())
        await asyncio.sleep(0)
        assert not waiting.done()
        put(board, one_change(A))
        put(board, one_change(B))
        await waiting
        assert len(reader.read().endpoints[0].upserts) == 2
        waiting = asyncio.create_task(reader.news())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
