"""Calls over a real unix socket: what is held while nobody reads, restarts, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from picker.server.http2.call import Call
from picker.server.http2.frames import PREFACE
from picker.server.unix_server import Flush, UnixServer
from tests.picker.server.h2_client import Client, message
from tests.picker.server.test_http2 import (
    DATA,
    END_HEADERS,
    GOAWAY,
    HEAD,
    HEADER,
    PING,
    SETTINGS,
    WINDOW,
    Echo,
    frame,
    frames_of,
    number,
    setting,
)


class Echoing:
    """A server that sends each message back."""

    def __init__(self) -> None:
        self.echoes: list[Echo] = []
        self.server = UnixServer(self._accept, max_message=100 << 20)

    def _accept(self, call: Call, _: Flush) -> Echo:
        self.echoes.append(Echo(call))
        return self.echoes[-1]


@pytest.fixture
async def echoing(run_dir: Path) -> AsyncIterator[Echoing]:
    made = Echoing()
    await made.server.listen(run_dir / "echo")
    yield made
    made.server.close()


async def called(channel: grpc.aio.Channel, sent: bytes) -> bytes:
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream("/any/method")()
    await call.write(sent)
    await call.done_writing()
    got = await call.read()
    assert isinstance(got, bytes)
    assert await call.code() is grpc.StatusCode.OK
    return got


async def test_a_64_mb_message_both_ways(echoing: Echoing, run_dir: Path) -> None:
    """By another client: grpc's own."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    sent = bytes(range(256)) * (64 << 12)
    async with grpc.aio.insecure_channel(f"unix:{run_dir / 'echo'}", options=unlimited) as channel:
        short, got = await asyncio.gather(called(channel, b"short"), called(channel, sent))
    assert got == sent
    assert short == b"short"
    assert echoing.server.running == 0


async def test_of_who_reads_nothing_nothing_is_read(echoing: Echoing, run_dir: Path) -> None:
    """Whatever the windows allow, neither answers nor requests pile up here."""
    reader, writer = await asyncio.open_unix_connection(run_dir / "echo", limit=1)
    opening = frame(SETTINGS, 0, 0, setting(4, (1 << 31) - 1))
    opening += frame(WINDOW, 0, 0, number((1 << 30) - 1)) + frame(HEADER, END_HEADERS, 1, HEAD)
    writer.write(PREFACE + opening)
    piece = frame(DATA, 0, 1, message(b"x" * 16_000)) + frame(PING, 0, 0, bytes(8)) * 100
    written = 0
    try:
        async with asyncio.timeout(10):
            while writer.transport.get_write_buffer_size() < 1 << 20:
                writer.write(piece)
                written += len(piece)
                await asyncio.sleep(0)
    finally:
        assert written < 64 << 20, "it was taken without end"
    (line,) = echoing.server._lines
    assert line._is_paused
    held = line._transport.get_write_buffer_size() if line._transport is not None else 0
    assert held < 4 << 20
    got = 0
    async with asyncio.timeout(30):
        while got < written // 2:
            got += len(await reader.read(1 << 20))
    writer.close()


async def test_a_lost_connection_ends_its_calls(echoing: Echoing, run_dir: Path) -> None:
    _, writer = await asyncio.open_unix_connection(run_dir / "echo")
    writer.write(
        PREFACE
        + frame(SETTINGS, 0, 0)
        + frame(HEADER, END_HEADERS, 1, HEAD)
        + frame(DATA, 0, 1, message(b"x"))
    )
    async with asyncio.timeout(10):
        while not echoing.echoes:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        assert echoing.server.running == 1
        writer.transport.abort()
        while echoing.server.running:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
    assert echoing.echoes[0].ends == ["cancelled"]
    assert not echoing.server._lines


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", PREFACE + frame(PING, 0, 0, b"x")])
async def test_who_breaks_the_protocol_is_told_and_let_go(
    echoing: Echoing, run_dir: Path, sent: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(run_dir / "echo")
    writer.write(sent)
    async with asyncio.timeout(10):
        got = await reader.read()
    assert frames_of(got)[-1][0] == GOAWAY
    writer.close()


async def test_at_the_end_what_was_sent_arrives_and_calls_are_ended(run_dir: Path) -> None:
    echoing = Echoing()
    await echoing.server.listen(run_dir / "echo")
    reader, writer = await asyncio.open_unix_connection(run_dir / "echo")
    client = Client(echoing._accept)  # type: ignore[arg-type]  # only its h2 is used
    stream = client.begin(b"hello")
    writer.write(client.h2.data_to_send())
    async with asyncio.timeout(10):
        while not echoing.echoes:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        echoing.server.close()
        got = await reader.read()
    for event in client.h2.receive_data(got):
        client._take(event)
    assert client.streams[stream].messages == [b"hello"]
    assert client.streams[stream].reset == 8
    assert client.closed is not None
    assert client.closed.last_stream_id == stream
    assert echoing.echoes[0].ends == ["cancelled"]
    with pytest.raises(OSError, match="refused"):
        await asyncio.open_unix_connection(run_dir / "echo")
    writer.close()


async def test_a_new_process_takes_the_path_over(run_dir: Path) -> None:
    """The old one goes on with what it has, and its end leaves the new one's path alone."""
    old, new = Echoing(), Echoing()
    await old.server.listen(run_dir / "echo")
    async with grpc.aio.insecure_channel(f"unix:{run_dir / 'echo'}") as channel:
        assert await called(channel, b"old") == b"old"
        await new.server.listen(run_dir / "echo")
        assert await called(channel, b"still old") == b"still old"
        async with grpc.aio.insecure_channel(
            f"unix:{run_dir / 'echo'}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as other:
            assert await called(other, b"new") == b"new"
            old.server.close()
            assert await called(other, b"new") == b"new"
        assert await called(channel, b"comes back") == b"comes back"
    assert [len(one.echoes) for one in (old, new)] == [2, 3]
    new.server.close()


async def test_a_path_that_cannot_be_listened_on(run_dir: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await Echoing().server.listen(run_dir / "no folder" / "echo")
