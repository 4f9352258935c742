"""Clients that do not keep up with a stream, or leave it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.server import ReplicaServer
from tests.loadtests.conftest import CONSTANT_STEP, Serve, until

LONG = EngineLimits(65536, max_model_len=100_000)
TOKENS = 40_000
"""Of about 200 bytes each on the wire: more than two socket buffers hold."""


@asynccontextmanager
async def asked(
    server: ReplicaServer, **fields: object
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A streaming request on a connection that takes little at a time."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (server.host, server.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
    chat = {"messages": [{"role": "user", "content": "hello"}], "stream": True, **fields}
    body = json.dumps(chat).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_a_client_that_reads_slowly_gets_all_of_it(serve: Serve) -> None:
    server = await serve(engine=EngineSettings(CONSTANT_STEP, LONG, time_scale=0.0))
    async with asked(server, max_tokens=TOKENS, ignore_eos=True) as (reader, _):
        assert b"200 OK" in await reader.readline()
        # The answer is complete long before the client has read it.
        await until(server.replica.engine.stats.finished.total)
        received = bytearray()
        while not received.endswith(b"0\r\n\r\n"):
            chunk = await reader.read(1 << 16)
            assert chunk, "the stream ended early"
            received += chunk
    assert b"data: [DONE]\n\n" in received[-40:]
    assert received.count(b'"delta":{"content"') == TOKENS
    assert received.count(b'"finish_reason":"length"') == 1


async def test_a_client_that_leaves_while_it_is_not_keeping_up_frees_what_it_held(
    serve: Serve,
) -> None:
    profile = replace(CONSTANT_STEP, overhead_s=0.002)
    server = await serve(engine=EngineSettings(profile, LONG))
    engine = server.replica.engine
    async with asked(server, max_tokens=90_000, ignore_eos=True, n=50) as (reader, writer):
        assert b"200 OK" in await reader.readline()
        await until(lambda: engine.stats.generation_tokens >= TOKENS)
        writer.transport.abort()
    await until(lambda: not engine.running_requests)
    assert engine.kv_usage == 0
    assert engine.stats.finished.total() == 0


async def test_an_engine_that_drops_everything_ends_streams_with_their_reason(
    serve: Serve,
) -> None:
    server = await serve(engine=EngineSettings(CONSTANT_STEP, LONG))
    engine = server.replica.engine
    async with asked(server, max_tokens=90_000, ignore_eos=True) as (reader, _):
        await until(lambda: engine.stats.generation_tokens >= 3)
        engine.abort_all()
        received = await reader.readuntil(b"0\r\n\r\n")
    lines = [line for line in received.decode().splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    choices = [json.loads(line[6:])["choices"][0] for line in lines[:-1]]
    shown = [choice for choice in choices if choice["delta"]["content"]]
    assert len(shown) == engine.stats.generation_tokens
    assert choices[-1]["finish_reason"] == "abort"
