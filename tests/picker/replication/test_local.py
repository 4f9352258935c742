"""Pickers of one host know what the others sent where."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from picker.replication.local import LocalPeers
from picker.seams.limiter import Limiter
from picker.seams.peers import Sent
from picker.state.cache.approximate import ApproximateIndex
from picker.wire import state_pb2
from policies.limits.prices import Usage
from tests.picker.accounts import Accounts
from tests.picker.fleet import POOL, Fleet, address, chat, decided, end_of, fleet, head


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - many things may make it true
            await asyncio.sleep(0.001)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pk") as path:
        yield Path(path)


@dataclass
class Group:
    fleets: list[Fleet]
    peers: list[LocalPeers]


def member(
    folder: Path, index: int, size: int, limiter: Limiter | None = None
) -> tuple[Fleet, LocalPeers]:
    others = [folder / str(other) for other in range(size) if other != index]
    peers = LocalPeers(f"p{index}", own=folder / str(index), others=others)
    return fleet(name=f"p{index}", seed=index, peers=peers, limiter=limiter), peers


@pytest.fixture(params=[2, 3])
async def group(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Group]:
    members = [member(folder, index, request.param) for index in range(request.param)]
    for made, peers in members:
        peers.start(made.picker.flights)
    yield Group([made for made, _ in members], [peers for _, peers in members])
    for _, peers in members:
        peers.stop()


async def test_all_count_what_one_has_sent_and_forget_it_at_its_end(group: Group) -> None:
    first = group.fleets[0]
    decision = await decided(first, chat())
    await until(lambda: all(one.in_flight() == 1 for one in group.fleets))
    first.picker.complete(end_of(decision))
    await until(lambda: all(one.is_settled for one in group.fleets))


async def test_all_find_a_prefix_that_one_has_sent(group: Group) -> None:
    body = chat("shared words " * 400)
    first, *rest = group.fleets
    decision = await decided(first, body)
    await until(lambda: all(one.in_flight() == 1 for one in rest))
    first.picker.complete(end_of(decision))
    await until(lambda: all(one.is_settled for one in rest))
    for one in rest:
        again = await decided(one, body)
        assert again.addresses[0] == decision.addresses[0]
        one.picker.complete(end_of(again, owner=one.picker.id))
        assert one.seen.completions[0].matched_tokens > 0


async def test_all_keep_a_session_that_one_has_bound(group: Group) -> None:
    session = head(x_session_id="s")
    bound = (await decided(group.fleets[0], chat("one"), session)).addresses[0]
    await until(lambda: all(one.in_flight() == 1 for one in group.fleets))
    for one in group.fleets:
        assert (await decided(one, chat("another " * 99), session)).addresses[0] == bound


async def test_an_end_told_to_another_closes_everywhere_and_is_observed_by_the_owner(
    group: Group,
) -> None:
    owner, other = group.fleets[0], group.fleets[1]
    decision = await decided(owner, chat())
    await until(lambda: all(one.in_flight() == 1 for one in group.fleets))
    for _ in range(2):
        other.picker.complete(end_of(decision))
    await until(lambda: all(one.is_settled for one in group.fleets))
    other.picker.complete(end_of(decision))
    owner.picker.complete(end_of(decision))
    await decided(owner, chat())
    await until(lambda: all(one.in_flight() == 1 for one in group.fleets))
    assert [len(one.seen.completions) for one in group.fleets] == [1] + [0] * (
        len(group.fleets) - 1
    )


async def test_the_owner_charges_what_another_was_told(folder: Path) -> None:
    accounts = Accounts()
    owner, owner_peers = member(folder, 0, 2, accounts)
    other, other_peers = member(folder, 1, 2)
    owner_peers.start(owner.picker.flights)
    other_peers.start(other.picker.flights)
    decision = await decided(owner, chat())
    other.picker.complete(end_of(decision, cached_tokens=7, reasoning_tokens=3))
    await until(lambda: bool(accounts.settled))
    assert accounts.settled == [Usage(10, 5, 7, 3)]
    owner_peers.stop()
    other_peers.stop()


async def test_a_peer_that_is_dead_or_not_there_yet(folder: Path) -> None:
    made, peers = member(folder, 0, 3)
    peers.start(made.picker.flights)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(folder / "1"))
    dead.close()  # its socket's file is still there
    decision = await decided(made, chat())
    made.picker.complete(end_of(decision))
    peers._flush()
    assert made.is_settled
    assert peers.dropped_batches == 0
    late, late_peers = member(folder, 1, 3)
    late_peers.start(late.picker.flights)
    await decided(made, chat())
    await until(lambda: late.in_flight() == 1)
    late_peers.stop()
    peers.stop()


async def test_a_restarted_peer_hands_over_ends_of_requests_it_never_heard_of(
    folder: Path,
) -> None:
    owner, owner_peers = member(folder, 0, 2)
    owner_peers.start(owner.picker.flights)
    decision = await decided(owner, chat())
    restarted, restarted_peers = member(folder, 1, 2)
    restarted_peers.start(restarted.picker.flights)
    restarted.picker.complete(end_of(decision))
    await until(lambda: owner.is_settled)
    assert len(owner.seen.completions) == 1
    restarted_peers.stop()
    owner_peers.stop()


async def test_a_peer_that_does_not_read_costs_no_memory_and_hears_the_latest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picker.replication.local._MAX_BACKLOG", 8)
    made, peers = member(folder, 0, 2)
    peers.start(made.picker.flights)
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    deaf.bind(str(folder / "1"))
    decision = await decided(made, chat())
    for number in range(5000):
        peers.ended(end_of(decision, id=f"e-{number}"))
        peers._flush()
    assert peers.dropped_batches > 0
    assert len(peers._others[folder / "1"]) == 8
    deaf.setblocking(False)
    last = ""
    async with asyncio.timeout(20):
        while last != "e-4999":
            try:
                batch = state_pb2.Batch.FromString(deaf.recv(1 << 20))
                last = batch.finished[-1].id
            except BlockingIOError:
                await asyncio.sleep(0.001)
    deaf.close()
    peers.stop()


async def test_garbage_is_counted_and_harmless(group: Group, folder: Path) -> None:
    made, peers = group.fleets[0], group.peers[0]
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    good = state_pb2.Load(pool=POOL, address=address(1), requests=1, kv_tokens=5)
    unknown = state_pb2.Load(pool="elsewhere", address="nowhere", requests=1)
    batch = state_pb2.Batch(picker="q", loads=[unknown, good])
    for data in (b"\xff" * 100, b"", batch.SerializeToString()):
        sender.sendto(data, str(folder / "0"))
    await until(lambda: made.in_flight() == 1)
    sender.close()
    assert peers.unreadable == 1


async def test_a_prompt_of_any_length_fits_a_datagram(group: Group) -> None:
    second = group.fleets[1]
    group.peers[0].sent(Sent(POOL, address(1), [list(range(100_000))] * 3))
    cache = second.picker.pools[POOL].cache
    assert isinstance(cache, ApproximateIndex)
    await until(lambda: bool(cache.matched_bytes([list(range(8000))], 3).any()))
    assert group.peers[0].dropped_batches == 0


async def test_after_stop_the_picker_is_alone(folder: Path) -> None:
    made, peers = member(folder, 0, 2)
    peers.start(made.picker.flights)
    peers.stop()
    decision = await decided(made, chat())
    made.picker.complete(end_of(decision))
    assert made.is_settled
    assert not (folder / "0").exists()


# -- in processes of their own


class Process:
    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    @classmethod
    async def start(cls, folder: Path, index: int, size: int) -> Process:
        others = [str(folder / str(other)) for other in range(size) if other != index]
        arguments = ("-m", "tests.picker.replication.peer", f"p{index}", str(folder / str(index)))
        made = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                *others,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )
        await made.do("look")
        return made

    async def do(self, what: str, **more: object) -> dict[str, object]:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps({"do": what, **more}).encode() + b"\n")
        answer: dict[str, object] = json.loads(await self.child.stdout.readline())
        return answer

    async def until(self, **wanted: object) -> dict[str, object]:
        async with asyncio.timeout(20):
            while True:
                seen = await self.do("look")
                if all(seen[key] == value for key, value in wanted.items()):
                    return seen
                await asyncio.sleep(0.002)

    async def end(self) -> None:
        if self.child.returncode is None:
            self.child.kill()
        await self.child.wait()


@pytest.mark.parametrize("size", [2, 3])
async def test_separate_processes(folder: Path, size: int) -> None:
    group = [await Process.start(folder, index, size) for index in range(size)]
    try:
        owner, other = group[0], group[1]
        sent = await owner.do("decide", text="shared " * 400, session="s")
        for one in group:
            await one.until(in_flight=1)
        await other.do("complete", id=sent["id"], owner="p0")
        for one in group:
            await one.until(in_flight=0, observed=int(one is owner))
        again = await other.do("decide", text="shared " * 400, session="s")
        assert again["address"] == sent["address"]
        await owner.until(in_flight=1)

        await other.end()  # dies; its request ends, and whoever hears of it tells the rest
        await owner.do("decide", text="x", session="t")
        for one in group:
            if one is not other:
                await one.do("live", ids=["p0", "p2"])
        await owner.do("complete", id=again["id"], owner="p1")
        for one in group:
            if one is not other:
                await one.until(in_flight=1)
        group[1] = await Process.start(folder, 1, size)
        await owner.do("decide", text="y", session="u")
        await group[1].until(in_flight=1)
    finally:
        for one in group:
            await one.end()
