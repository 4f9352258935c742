"""Pickers of one host know what the others sent where."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from picker.prompt.blocks import hash_blocks
from picker.prompt.forms import Form, read_prompt
from picker.replication.local import LocalPeers
from picker.request.answer import Decision
from picker.request.report import Report
from picker.seams.limiter import Limiter
from picker.seams.peers import Sent, endpoint_keys
from picker.state.models import ServedModel
from picker.wire import state_pb2
from policies.limits.prices import Usage
from tests.picker.accounts import Accounts
from tests.picker.fleet import IDLE, MODEL, POOL, Fleet, address, chat, decided, end_of, fleet, head
from tests.picker.signals.replica import Heard


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


async def test_what_failed_at_one_is_forgotten_by_all_and_an_open_breaker_is_open_for_all(
    group: Group,
) -> None:
    first, *others = group.fleets
    body = chat("a long prompt " * 300)
    decision = await decided(first, body, head(x_session_id="s"))
    broken = decision.addresses[0]

    def held(one: Fleet) -> int:
        pool = one.picker.pools[POOL]
        index = pool.cache.approximate
        return index.held_bytes(pool.state.slot_of[broken])

    await until(lambda: all(held(one) > 0 for one in group.fleets))
    first.picker.complete(end_of(decision, status=500, reason="http_error", tries=()))
    await until(lambda: not any(held(one) for one in group.fleets))
    sessions = [one.picker.pools[POOL].sessions for one in others]
    assert not any(one.address_of("s", first.clock()) for one in sessions)

    def tripped(one: Fleet) -> bool:
        pool = one.picker.pools[POOL]
        return bool(pool.breakers.tripped(one.clock()))

    while not tripped(first):
        decision = await decided(first, chat())
        if decision.addresses[0] == broken:
            first.picker.complete(end_of(decision, status=500, reason="http_error", tries=()))
        else:
            first.picker.complete(end_of(decision))
    await until(lambda: all(map(tripped, group.fleets)))
    for one in others:
        assert (await decided(one, chat())).addresses[-1] == broken


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
    monkeypatch.setattr("picker.replication.local._MAX_ENDS", 8)
    made, peers = member(folder, 0, 2)
    peers.start(made.picker.flights)
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    deaf.bind(str(folder / "1"))
    decision = await decided(made, chat())
    for number in range(5000):
        peers.sent(Sent(POOL, address(1), [[number]]))
        peers.ended(end_of(decision, id=f"e-{number}"))
        peers._flush()
    assert peers.dropped_batches > 0
    assert len(peers._peers["1"].backlog) == len(peers._peers["1"].ends) == 8
    deaf.setblocking(False)
    last = ""
    async with asyncio.timeout(20):
        while last != "e-4999":
            try:
                batch = state_pb2.Batch.FromString(deaf.recv(1 << 20))
                last = batch.ended[-1].id if batch.ended else last
            except BlockingIOError:
                await asyncio.sleep(0.001)
    deaf.close()
    peers.stop()


async def test_garbage_is_counted_and_harmless(group: Group, folder: Path) -> None:
    made, peers = group.fleets[0], group.peers[0]
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    row = np.array([1.0, 0.0, 5.0]).tobytes()
    nowhere, somewhere = (endpoint_keys([one]).tobytes() for one in ("nowhere", address(1)))
    unknown = state_pb2.Loads(pool="elsewhere", endpoints=nowhere, numbers=row)
    good = state_pb2.Loads(pool=POOL, endpoints=nowhere + somewhere, numbers=row * 2)
    batch = state_pb2.Batch(picker="q", loads=[unknown, good])
    for data in (b"\xff" * 100, b"", batch.SerializeToString()):
        sender.sendto(data, str(folder / "0"))
    await until(lambda: made.in_flight() == 1)
    sender.close()
    assert peers.unreadable == 1


async def test_a_prompt_of_any_length_fits_a_datagram(group: Group) -> None:
    second = group.fleets[1]
    group.peers[0].sent(Sent(POOL, address(1), [list(range(100_000))] * 3))
    cache = second.picker.pools[POOL].cache.approximate
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


# -- the same picture


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picker.replication.local._BEAT_S", 0.05)


def picture(made: Fleet) -> list[list[float]]:
    """In-flight columns by address: requests, prefill tokens, KV tokens."""
    state = made.picker.pools.states[POOL]
    view = state.view
    slots = [state.slot_of[one] for one in sorted(state.slot_of)]
    return [
        column[slots].tolist()
        for column in (
            view.in_flight_requests,
            view.in_flight_prefill_tokens,
            view.in_flight_kv_tokens,
        )
    ]


def summed(fleets: list[Fleet]) -> list[list[float]]:
    """The picture of all requests under way, from each picker's own."""
    total = np.zeros((3, len(fleets[0].picker.pools.states[POOL].slot_of)))
    order = sorted(fleets[0].picker.pools.states[POOL].slot_of)
    for made in fleets:
        for entry in made.picker.flights._entries.values():
            leg = entry.answering
            prefill_tokens = 0 if leg.prefill_done else leg.uncached_tokens
            kv_tokens = leg.prompt_tokens + leg.output_tokens
            total[:, order.index(leg.address)] += 1, prefill_tokens, kv_tokens
    return [column.tolist() for column in total]


async def traffic(group: Group, rng: random.Random, count: int) -> list[list[int]]:
    """Conversations over all pickers; some requests end, some at another picker than they began
    at. Returns the prompts' blocks."""
    said = [f"{rng.random()} " * 60 for _ in range(6)]
    under_way: list[tuple[Decision, str]] = []
    chains: list[list[int]] = []
    for _ in range(count):
        at = rng.choice(group.fleets)
        topic = rng.randrange(len(said))
        said[topic] += f"{rng.random()} " * 20
        body = chat(said[topic])
        chains += hash_blocks(read_prompt(Form.CHAT, orjson.loads(body)), model=MODEL).chains
        session = head(x_session_id=str(topic)) if topic % 2 else head()
        under_way.append((await decided(at, body, session), at.picker.id))
        if rng.random() < 0.6:
            decision, owner = under_way.pop(rng.randrange(len(under_way)))
            rng.choice(group.fleets).picker.complete(end_of(decision, owner=owner))
        if rng.random() < 0.2:
            await asyncio.sleep(0.002)
    return chains


async def same_picture(group: Group) -> None:
    await until(lambda: all(picture(one) == summed(group.fleets) for one in group.fleets))


async def test_all_have_the_picture_that_one_picker_alone_would_have(group: Group) -> None:
    chains = await traffic(group, random.Random(1), 150)
    await same_picture(group)
    for chain in chains:
        matches = [matched(one, chain) for one in group.fleets]
        assert any(matches[0])
        assert matches == [matches[0]] * len(matches)


def matched(made: Fleet, chain: list[int]) -> list[float]:
    cache = made.picker.pools[POOL].cache.approximate
    return list(cache.matched_bytes([chain], 3))


async def test_losses_heal(
    group: Group, quick_beats: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(2)
    send = LocalPeers._send

    def lose(self: LocalPeers, peer: Any, data: bytes) -> None:
        if rng.random() < 0.5 or state_pb2.Batch.FromString(data).ended:
            send(self, peer, data)

    monkeypatch.setattr(LocalPeers, "_send", lose)
    await traffic(group, rng, 100)
    await asyncio.sleep(0.1)
    monkeypatch.setattr(LocalPeers, "_send", send)
    await same_picture(group)


async def test_an_endpoint_that_only_one_knows_is_left_out_until_all_do(
    group: Group, quick_beats: None
) -> None:
    first, *rest = group.fleets
    for one in rest:
        one.sync([1, 2])
    for number in range(20):
        await decided(first, chat(f"{number} " * 50))
    wanted = picture(first)
    assert wanted[0][2] > 0
    await until(lambda: all(one.in_flight() == sum(wanted[0][:2]) for one in rest))
    for one in rest:
        one.sync([1, 2, 3])
        one.report(3)
    await same_picture(group)


async def test_only_the_owner_hears_of_an_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [member(folder, index, 3) for index in range(3)]
    heard: list[tuple[str, str]] = []
    for made, peers in members:
        take = made.picker.flights.peer_ended

        def note(report: Report, name: str = made.picker.id, take: Any = take) -> None:
            heard.append((name, report.id))
            take(report)

        monkeypatch.setattr(made.picker.flights, "peer_ended", note)
        peers.start(made.picker.flights)
    await until(lambda: all(len(peers.readings.members) == 3 for _, peers in members))
    (owner, _), (other, _), (_, last_peers) = members
    decision = await decided(owner, chat())
    other.picker.complete(end_of(decision))
    await until(lambda: owner.is_settled)
    assert heard == [("p0", decision.id)]
    last_peers.stop()  # an end of one that has gone is for all
    other.picker.complete(end_of(decision, id="p2-1", owner="p2"))
    await until(lambda: ("p0", "p2-1") in heard)
    for _, peers in members[:2]:
        peers.stop()


async def test_only_the_owner_hears_that_a_request_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [member(folder, index, 3, Accounts()) for index in range(3)]
    heard: list[tuple[str, list[str]]] = []
    for made, peers in members:
        take = made.picker.flights.peer_lives

        def note(ids: Iterable[str], name: str = made.picker.id, take: Any = take) -> None:
            heard.append((name, list(ids)))
            take(ids)

        monkeypatch.setattr(made.picker.flights, "peer_lives", note)
        peers.start(made.picker.flights)
    await until(lambda: all(len(peers.readings.members) == 3 for _, peers in members))
    (owner, _), (other, other_peers), _ = members
    decision = await decided(owner, chat())
    owner.clock.now_s += 6.0
    for number in (1, 2, 3):
        owner.report(number)
    other.picker.lives("gone-1", owner="gone")
    other.picker.lives(decision.id, owner="p0")
    await until(lambda: bool(heard))
    assert heard == [("p0", [decision.id])]
    (entry,) = owner.picker.flights._entries.values()
    assert owner.picker.flights._quiet.has_lived(entry)
    assert not any(peer.alive for peer in other_peers._peers.values())
    for _, peers in members:
        peers.stop()


async def test_an_end_that_was_on_its_way_to_a_dead_owner_is_for_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [member(folder, index, 3) for index in range(3)]
    heard: list[str] = []
    monkeypatch.setattr(
        members[2][0].picker.flights, "peer_ended", lambda report: heard.append(report.id)
    )
    for made, peers in members:
        peers.start(made.picker.flights)
    (dead, dead_peers), (other, other_peers), (_, third_peers) = members
    await until(lambda: all(len(peers.readings.members) == 3 for _, peers in members))
    decision = await decided(dead, chat())
    asyncio.get_running_loop().remove_reader(dead_peers._socket)
    dead_peers._socket.close()  # killed, without a word
    other.picker.complete(end_of(decision))
    await until(lambda: heard == [decision.id])
    assert "0" not in other_peers.readings.members
    for peers in (other_peers, third_peers):
        peers.stop()


async def test_what_a_killed_picker_had_in_flight_goes_away(group: Group) -> None:
    owner, *rest = group.fleets
    decision = await decided(owner, chat())
    await until(lambda: all(one.in_flight() == 1 for one in group.fleets))
    for one in rest:
        one.picker.flights.pickers_live([each.picker.id for each in rest])
        one.clock.now_s += 1
        assert one.in_flight() == 1
        assert one.picker.flights.under_way(POOL, decision.addresses[0]) == 1
    first, *others = rest
    first.clock.now_s += 5  # by then its engine must have had the last request
    first.report(int(decision.addresses[0].split(".")[3].split(":")[0]))  # its engine is idle
    assert first.in_flight() == 0
    for one in others:
        one.clock.now_s += 400
        one.picker.flights.tick()
        assert one.in_flight() == 0


# -- who lives


async def test_pickers_that_follow_each_other_find_that_they_live(group: Group) -> None:
    names = tuple(str(index) for index in range(len(group.peers)))
    await until(lambda: all(peers.readings.members == names for peers in group.peers))


async def test_who_says_that_it_leaves_is_gone_at_once(folder: Path) -> None:
    (_, first), (_, second) = members = [member(folder, index, 2) for index in range(2)]
    for made, peers in members:
        peers.start(made.picker.flights)
    await until(lambda: first.readings.members == ("0", "1"))
    second.stop()
    async with asyncio.timeout(1):  # not when nothing was heard of it for some seconds
        await until(lambda: first.readings.members == ("0",))
    first.stop()


async def test_who_is_silent_is_gone_after_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picker.replication.local._BEAT_S", 0.02)
    monkeypatch.setattr("picker.replication.local._GONE_S", 0.2)
    (_, first), (_, second) = members = [member(folder, index, 2) for index in range(2)]
    for made, peers in members:
        peers.start(made.picker.flights)
    await until(lambda: first.readings.members == ("0", "1"))
    second.follow(())  # it does not send any more, as a hung one
    await until(lambda: first.readings.members == ("0",))
    second.follow([folder / "0"])
    await until(lambda: first.readings.members == ("0", "1"))
    for peers in (first, second):
        peers.stop()


async def test_who_is_not_followed_does_not_count(group: Group, folder: Path) -> None:
    first = group.peers[0]
    await until(lambda: len(first.readings.members) == len(group.peers))
    first.follow([])
    assert first.readings.members == ("0",)
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stranger.bind(str(folder / "stranger"))
    stranger.sendto(state_pb2.Batch(picker="x").SerializeToString(), str(folder / "0"))
    await asyncio.sleep(0.05)
    assert first.readings.members == ("0",)
    stranger.close()


async def test_what_one_has_read_reaches_the_others(group: Group) -> None:
    first, *rest = group.peers
    sinks = [Heard() for _ in rest]
    for peers, sink in zip(rest, sinks, strict=True):
        peers.readings.listen(sink)
    await until(lambda: len(first.readings.members) == len(group.peers))
    listed = [ServedModel("m", None, None)]
    first.readings.apply_models(POOL, address(1), listed, 1.0)
    first.readings.apply_signals(POOL, address(1), IDLE, 2.0)
    first.readings.mark_failed(POOL, address(2), "refused", 3.0)
    for sink in sinks:
        await sink.until(lambda s=sink: len(s.order) == 3)  # type: ignore[misc]
        assert sink.signals == [(address(1), IDLE)]
        assert sink.models == [(address(1), listed)]
        assert sink.failed == [(address(2), "refused")]


async def test_parts_of_a_batch_that_do_not_fit_lose_only_themselves(
    group: Group, folder: Path
) -> None:
    made, peers = group.fleets[0], group.peers[0]
    peers.readings.listen(Heard())
    batch = state_pb2.Batch(picker="x")
    batch.readings.add(pool=POOL, addresses=["a", "b"], numbers=bytes(8))
    batch.sent.add(pool=POOL, addresses=["x", "y"])
    row = np.array([1.0, 0.0, 5.0]).tobytes()
    batch.loads.add(pool=POOL, endpoints=endpoint_keys([address(1)]).tobytes(), numbers=row)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.sendto(batch.SerializeToString(), str(folder / "0"))
    await until(lambda: made.in_flight() == 1)
    assert peers.unreadable == 2
    sender.close()


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
        await group[1].until(in_flight=2)
    finally:
        for one in group:
            await one.end()
