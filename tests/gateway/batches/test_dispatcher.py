"""Batches at work, over a sender that answers as it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.batches.cancel import cancelled
from gateway.batches.dispatcher import Dispatcher
from gateway.batches.folder import Folder
from gateway.batches.lines import Line
from gateway.batches.outcome import Again, Answered, Because, Outcome, outcome_of
from gateway.batches.records import BatchRecord, Owner, Status
from gateway.batches.settings import LaneSettings
from gateway.batches.sqlite_store import SqliteStore

CHAT = "/v1/chat/completions"
Answer = Callable[[BatchRecord, Line], Outcome | None]


def good(custom_id: str, tokens: int = 2) -> Outcome:
    usage = {"prompt_tokens": 1, "completion_tokens": tokens - 1}
    return outcome_of(custom_id, 200, {}, json.dumps({"usage": usage}).encode())


@dataclass
class Sender:
    """None as an answer: it never comes."""

    answer: Answer = lambda record, line: good(line.custom_id)
    sent: list[tuple[str, str]] = field(default_factory=list)
    """Tenant and custom id."""
    most: int = 0
    under_way: int = 0
    held: asyncio.Event | None = None
    """Nothing is answered before."""

    async def send(self, record: BatchRecord, line: Line) -> Outcome:
        self.sent.append((record.owner.tenant, line.custom_id))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await (self.held.wait() if self.held is not None else asyncio.sleep(0))
            outcome = self.answer(record, line)
            if outcome is None:
                await asyncio.Event().wait()
            assert outcome is not None
            return outcome
        finally:
            self.under_way -= 1


@dataclass
class Lane:
    folder: Folder
    store: SqliteStore
    sender: Sender
    dispatcher: Dispatcher
    made: int = 0
    now_s: float = 1_000_000.0

    async def begin(self, lines: int, tenant: str = "acme", window_s: int = 86_400) -> str:
        self.made += 1
        id_ = f"batch_{self.made}"
        content = [
            json.dumps(
                {"custom_id": f"r{n}", "method": "POST", "url": CHAT, "body": {"model": "m"}}
            )
            for n in range(lines)
        ]
        self.folder.file(f"file-{id_}").write_text("\n".join(content))
        self.folder.keep_input(id_, f"file-{id_}")
        record = BatchRecord(
            id=id_,
            owner=Owner(tenant),
            endpoint=CHAT,
            input_file_id=f"file-{id_}",
            completion_window="24h",
            created_s=int(self.now_s),
            expires_s=int(self.now_s) + window_s,
            output_id=f"out-{id_}",
            error_id=f"err-{id_}",
        )
        await self.store.add_batch(record, 100)
        self.dispatcher.wake()
        return id_

    async def over(self, id_: str) -> BatchRecord:
        async with asyncio.timeout(20):
            while True:
                found = await self.store.batch(id_, None)
                assert found is not None
                if found.status.is_final:
                    return found
                await asyncio.sleep(0.02)

    async def sending(self, lines: int) -> None:
        async with asyncio.timeout(20):
            while self.sender.under_way < lines:  # noqa: ASYNC110 - of a task of its own
                await asyncio.sleep(0.01)

    def ids(self, file: str | None) -> Counter[str]:
        if file is None:
            return Counter()
        lines = self.folder.file(file).read_bytes().splitlines()
        return Counter(json.loads(one)["custom_id"] for one in lines)


@asynccontextmanager
async def lane(
    path: Path, answer: Answer | None = None, *, attempts: int = 2, concurrency: int = 50
) -> AsyncIterator[Lane]:
    settings = LaneSettings(
        folder=path,
        socket=path / "none",
        key="k",
        max_file_bytes=1 << 20,
        max_lines=1_000,
        max_line_bytes=10_000,
        max_tenant_bytes=1 << 30,
        max_tenant_batches=100,
        retention_s=86_400.0,
        concurrency=concurrency,
        attempts=attempts,
        cancel_grace_s=0.01,
        drain_s=0.01,
    )
    folder, sender, began_s = Folder(path), Sender(), time.monotonic()
    if answer is not None:
        sender.answer = answer
    folder.prepare()
    store = SqliteStore(folder.database)
    made = Lane(
        folder,
        store,
        sender,
        Dispatcher(
            store, folder, sender, settings, now_s=lambda: made.now_s + time.monotonic() - began_s
        ),
    )
    working = asyncio.create_task(made.dispatcher.run())
    try:
        yield made
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await store.close()


async def test_every_line_is_sent_once_and_answered(tmp_path: Path) -> None:
    async with lane(tmp_path) as made:
        done = await made.over(await made.begin(200))
        assert (done.status, done.counts.completed, done.counts.failed) == (
            *(Status.COMPLETED, 200, 0),
        )
        assert made.ids(done.output_file_id) == Counter(f"r{n}" for n in range(200))
        assert Counter(made.sender.sent) == Counter(("acme", f"r{n}") for n in range(200))
        assert done.error_file_id is None
        assert done.used.input_tokens == 200
        async with asyncio.timeout(20):
            while made.folder.input(done.id).exists():  # noqa: ASYNC110 - a task of its own
                await asyncio.sleep(0.01)
        assert made.sender.most <= 50


async def test_after_a_death_the_rest_is_sent(tmp_path: Path) -> None:
    def first(record: BatchRecord, line: Line) -> Outcome | None:
        return good(line.custom_id) if int(line.custom_id[1:]) < 40 else None

    async with lane(tmp_path, first, concurrency=5) as made:
        id_ = await made.begin(100)
        await made.sending(5)
    async with lane(tmp_path) as made:
        done = await made.over(id_)
        assert made.ids(done.output_file_id) == Counter(f"r{n}" for n in range(100))
        assert len(made.sender.sent) == 60
        assert done.used.output_tokens == 100


async def test_tries_that_fail_are_counted_and_waits_are_not(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()
    waits = [Because.SATURATED, Because.DOWN, Because.SATURATED]

    def answer(record: BatchRecord, line: Line) -> Outcome:
        tries[line.custom_id] += 1
        if line.custom_id == "r0":
            return Again(Because.FAILED)
        if waits:
            return Again(waits.pop())
        return good(line.custom_id)

    async with lane(tmp_path, answer, attempts=1) as made:
        done = await made.over(await made.begin(4))
        assert done.status is Status.COMPLETED
        assert made.ids(done.error_file_id) == Counter(["r0"])
        assert made.ids(done.output_file_id) == Counter(["r1", "r2", "r3"])
        assert tries["r0"] == 1
        assert tries.total() == 7


async def test_a_try_that_failed_is_made_again(tmp_path: Path) -> None:
    left = [Again(Because.FAILED)]

    def answer(record: BatchRecord, line: Line) -> Outcome:
        if left:
            made.now_s += 5.0  # so it is due at once
            return left.pop()
        return good(line.custom_id)

    async with lane(tmp_path, answer) as made:
        done = await made.over(await made.begin(1))
        assert (done.counts.completed, done.counts.failed) == (1, 0)


async def test_a_tenant_at_its_limit_stops_nobody_else(tmp_path: Path) -> None:
    def answer(record: BatchRecord, line: Line) -> Outcome:
        if record.owner.tenant == "poor":
            return Again(Because.LIMITED, 60.0)
        return good(line.custom_id)

    async with lane(tmp_path, answer, concurrency=2) as made:
        await made.begin(50, "poor")
        done = await made.over(await made.begin(50, "rich"))
        assert done.status is Status.COMPLETED
        assert Counter(tenant for tenant, _ in made.sender.sent)["poor"] <= 2


async def test_tenants_get_as_many_tokens_each(tmp_path: Path) -> None:
    def answer(record: BatchRecord, line: Line) -> Outcome:
        return good(line.custom_id, 90 if record.owner.tenant == "large" else 30)

    async with lane(tmp_path, answer, concurrency=1) as made:
        made.sender.held = asyncio.Event()
        ids = [await made.begin(120, "large"), await made.begin(120, "small")]
        async with asyncio.timeout(20):
            runs = made.dispatcher._runs
            while len(runs) < 2 or any(one.reading for one in runs.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for run in runs.values():
            if run.wants_ahead:  # who has nothing read gives way, and makes up for it later
                run.read_ahead()
        made.sender.held.set()
        for id_ in ids:
            await made.over(id_)
        order = [tenant for tenant, _ in made.sender.sent]
        share = Counter(order[8:68])  # of what is read ahead
        assert 2.4 < share["small"] / share["large"] < 3.6


async def test_a_batch_that_is_cancelled_sends_nothing_more(tmp_path: Path) -> None:
    def answer(record: BatchRecord, line: Line) -> Outcome | None:
        return good(line.custom_id) if line.custom_id == "r0" else None

    async with lane(tmp_path, answer, concurrency=3) as made:
        id_ = await made.begin(20)
        await made.sending(3)
        await cancelled(made.store, id_, made.now_s)
        made.dispatcher.wake()
        done = await made.over(id_)
        assert done.status is Status.CANCELLED
        assert made.ids(done.output_file_id) == Counter(["r0"])
        assert made.ids(done.error_file_id) == Counter(f"r{n}" for n in range(1, 20))
        assert made.sender.under_way == 0


async def test_a_batch_past_its_window_ends_also_after_a_death(tmp_path: Path) -> None:
    async with lane(tmp_path, lambda record, line: None) as made:
        id_ = await made.begin(3, window_s=60)
        await made.sending(3)
    async with lane(tmp_path) as made:
        made.now_s += 61
        done = await made.over(id_)
        assert (done.status, done.counts.failed) == (Status.EXPIRED, 3)
        assert made.sender.sent == []


async def test_many_batches_of_one_tenant_are_worked_on_a_few_at_a_time(tmp_path: Path) -> None:
    async with lane(tmp_path) as made:
        ids = [await made.begin(3) for _ in range(12)]
        for id_ in ids:
            assert (await made.over(id_)).status is Status.COMPLETED
        assert len(made.sender.sent) == 36


async def test_what_cannot_be_read_fails(tmp_path: Path) -> None:
    async with lane(tmp_path) as made:
        made.folder.file("file-batch_1").write_text("")
        id_ = await made.begin(0)
        done = await made.over(id_)
        assert done.status is Status.FAILED
        assert [error.code for error in done.errors] == ["empty_file"]


async def test_one_of_two_processes_works_and_the_other_takes_over(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with lane(tmp_path, lambda record, line: None) as first:
            id_ = await first.begin(4)
            await first.sending(4)
            second = await stack.enter_async_context(lane(tmp_path))
            assert second.sender.sent == []
        assert (await second.over(id_)).status is Status.COMPLETED


async def test_outdated_files_go(tmp_path: Path) -> None:
    async with lane(tmp_path) as made:
        done = await made.over(await made.begin(2))
        assert done.output_file_id is not None
        made.now_s += 2 * 86_400
        await made.dispatcher._clean_once()
        assert not made.folder.file(done.output_file_id).exists()
        assert await made.store.file(done.output_file_id, None) is None
        assert await made.store.batch(done.id, None) is None


@pytest.mark.parametrize("succeeded", [True, False])
async def test_answers_that_the_disk_refuses_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, succeeded: bool
) -> None:
    import os

    write, refusals = os.write, [3]

    def refuse(file: int, content: bytes) -> int:
        if refusals[0] and b"custom_id" in bytes(content):
            refusals[0] -= 1
            write(file, bytes(content)[:10])
            raise OSError(28, "No space left on device")
        return write(file, content)

    monkeypatch.setattr(os, "write", refuse)

    def answer(record: BatchRecord, line: Line) -> Outcome:
        found = good(line.custom_id)
        assert isinstance(found, Answered)
        return Answered(found.line, succeeded=succeeded)

    async with lane(tmp_path, answer) as made:
        done = await made.over(await made.begin(5))
        file = done.output_file_id if succeeded else done.error_file_id
        assert made.ids(file) == Counter(f"r{n}" for n in range(5))
        assert refusals == [0]
