"""Stand-in replicas that cost next to nothing: canned answers in vLLM's shape, many ports in one
process. What they do not do is think: an answer begins at once, a stream has one token a tick.
With ``--delay-ms`` an answer begins so much later, with ``--token-ms`` each stream has a clock of
its own; both are exact.

Run as ``python -m loadtests.bench.upstream --replicas N``; ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from typing import Protocol, cast

import orjson
import uvloop

from loadtests.bench.alarms import Alarms
from loadtests.bench.prompts import MODEL

TICK_S = 0.002
"""Time between two tokens of a stream."""
KV_BLOCKS, KV_BLOCK_TOKENS = 27_440, 16
"""KV cache of a replica: an 8B model on an 80 GB accelerator."""
TEXT_BYTES_PER_TOKEN = 4
METRICS_BYTES = 80_000
"""Of a real vLLM's /metrics page, about."""
_TAIL_BYTES = 4_000
"""Where a body's options stand: our load generator and the picker put them last; other gateways
write the whole body anew, but none that is longer is sent to them."""
_MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')
_STREAM = re.compile(rb'"stream": ?true')
_USAGE_WANTED = re.compile(rb'"include_usage": ?true')

_MODELS = b'{"object":"list","data":[{"id":"%b","object":"model","parent":null}]}' % MODEL.encode()
_IDENTITY = (
    b'{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion%b",'
    b'"created":1700000000,"model":"' + MODEL.encode() + b'",'
)
_USAGE = (
    b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":0}}'
)
_WHOLE = (
    _IDENTITY.replace(b"%b", b"")
    + b'"choices":[{"index":0,"message":{"role":"assistant","content":" token"},'
    b'"logprobs":null,"finish_reason":"length"}],' + _USAGE + b"}"
)
_EVENT_START = b"data: " + _IDENTITY.replace(b"%b", b".chunk")


def _chunk(event: bytes, *, filled: int = 0) -> bytes:
    """``filled``: how much longer the event will be when its placeholder is filled."""
    return b"%x\r\n%b\r\n" % (len(event) + filled, event)


def _token(finish_reason: bytes) -> bytes:
    """About 300 bytes, as vLLM's events; to be filled with the number of the token."""
    return _chunk(
        _EVENT_START + b'"choices":[{"index":0,"delta":{"content":" token-%06d","reasoning":null},'
        b'"logprobs":null,"finish_reason":' + finish_reason + b',"stop_reason":null,'
        b'"token_ids":null}],"prompt_token_ids":null}\n\n',
        filled=2,  # six digits for %06d
    )


def token_text(number: int) -> str:
    """What the token of a stream with that number says; the first one's is 0."""
    return f" token-{number:06d}"


_TOKEN = _token(b"null")
_LAST_TOKEN = _token(b'"length"')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_STREAM_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _metrics_rest() -> bytes:
    labels = f'engine="0",model_name="{MODEL}"'
    cache = f'block_size="{KV_BLOCK_TOKENS}",engine="0",num_gpu_blocks="{KV_BLOCKS}"'
    lines = [f"vllm:cache_config_info{{{cache}}} 1.0"]
    size_bytes, family = 0, 0
    while size_bytes < METRICS_BYTES:
        for bucket in range(28):
            lines.append(f'vllm:time_{family}_seconds_bucket{{{labels},le="{2**bucket}"}} 1.0')
            size_bytes += len(lines[-1]) + 1
        family += 1
    return "\n".join([*lines, ""]).encode()


_METRICS_REST = _metrics_rest()


class Replica:
    """What all connections of one port share."""

    def __init__(self, running: int = 0) -> None:
        """``running``: requests that the metrics claim beside the streams."""
        self.requests = 0
        self.scrapes = 0
        self.streams = 0
        """Under way now."""
        self._running = running

    def metrics(self) -> bytes:
        """The page that the picker reads; the gauges come first, as vLLM's do."""
        labels = b'engine="0",model_name="%b"' % MODEL.encode()
        return (
            b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{%b} %d.0\n"
            b"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{%b} 0.0\n"
            b"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{%b} 0.25\n%b"
        ) % (labels, self._running + self.streams, labels, labels, _METRICS_REST)


class Streams(Protocol):
    """When the tokens of streams are due."""

    def add(self, connection: Connection, tokens: int) -> None:
        """A stream has begun; so many tokens are left."""

    def drop(self, connection: Connection) -> None:
        """The client has left."""


class TickingStreams:
    """All the streams of the process get a token at the same ticks."""

    def __init__(self) -> None:
        self._left: dict[Connection, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection, tokens: int) -> None:
        """See Streams."""
        self._left[connection] = tokens
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def drop(self, connection: Connection) -> None:
        """See Streams."""
        self._left.pop(connection, None)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for connection, left in list(self._left.items()):
            if left > 1:
                self._left[connection] = left - 1
                connection.send_token()
            else:
                del self._left[connection]
                connection.end_stream()
        wait_s = max(0.0, began_s + TICK_S - loop.time())
        self._timer = loop.call_later(wait_s, self._tick) if self._left else None


class PacedStreams:
    """Each stream has a token every ``token_s``, counted from its first."""

    def __init__(self, alarms: Alarms, token_s: float) -> None:
        self._alarms = alarms
        self.token_s = token_s

    def add(self, connection: Connection, tokens: int) -> None:
        """See Streams."""
        self._plan(connection, tokens, time.monotonic() + self.token_s)

    def drop(self, connection: Connection) -> None:
        """See Streams."""

    def _plan(self, connection: Connection, left: int, due_s: float) -> None:
        self._alarms.at(due_s, lambda: self._due(connection, left, due_s))

    def _due(self, connection: Connection, left: int, due_s: float) -> None:
        if not connection.streaming:
            return
        if left > 1:
            connection.send_token()
            self._plan(connection, left - 1, due_s + self.token_s)
        else:
            connection.end_stream()


class Connection(asyncio.Protocol):
    """Reads one request at a time; of a body only the length and the last bytes matter."""

    def __init__(self, replica: Replica, streams: Streams, alarms: Alarms, delay_s: float) -> None:
        self._replica = replica
        self._streams = streams
        self._alarms = alarms
        self._delay_s = delay_s
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._missing_bytes = 0
        self._body_bytes = 0
        self._path = b""
        self._tokens = 0
        self._sent_tokens = 0
        self._usage = False
        self.streaming = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self.streaming:
            self.streaming = False
            self._replica.streams -= 1
            self._streams.drop(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        if self._missing_bytes:
            self._missing_bytes -= len(data)
            self._held = self._held[-_TAIL_BYTES:] + data[-_TAIL_BYTES:]
        else:
            self._held += data
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return
            head, body = self._held[:end].lower(), self._held[end + 4 :]
            self._path = head.split(b" ", 2)[1]
            _, found, rest = head.partition(b"\ncontent-length:")
            self._body_bytes = int(rest.split(b"\r", 1)[0]) if found else 0
            self._missing_bytes = self._body_bytes - len(body)
            self._held = body[-_TAIL_BYTES:]
        if self._missing_bytes <= 0:
            tail, self._held, self._missing_bytes = self._held, b"", 0
            self._answer(tail)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def send_token(self) -> None:
        """The next token of the stream, not the last one."""
        self.write(_TOKEN % self._sent_tokens)
        self._sent_tokens += 1

    def end_stream(self) -> None:
        """The last token and what follows it."""
        self.streaming = False
        self._replica.streams -= 1
        usage = b""
        if self._usage:
            usage = _chunk(_EVENT_START + b'"choices":[],' + self._counts(_USAGE) + b"}\n\n")
        self.write(_LAST_TOKEN % self._sent_tokens + usage + _STREAM_END)

    def _counts(self, template: bytes) -> bytes:
        prompt_tokens = self._body_bytes // TEXT_BYTES_PER_TOKEN
        return template % (prompt_tokens, prompt_tokens + self._tokens, self._tokens)

    def _answer(self, tail: bytes) -> None:
        if self._path.partition(b"?")[0] == b"/v1/chat/completions":
            self._replica.requests += 1
            if self._delay_s:
                due_s = time.monotonic() + self._delay_s
                self._alarms.at(due_s, lambda: self._generate(tail))
            else:
                self._generate(tail)
        elif self._path == b"/metrics":
            self._replica.scrapes += 1
            self._whole(b"text/plain; version=0.0.4", self._replica.metrics())
        elif self._path == b"/v1/models":
            self._whole(b"application/json", _MODELS)
        elif self._path.startswith(b"/v1/"):
            self._whole(b"application/json", b'{"detail":"Not Found"}', status=b"404 Not Found")
        else:
            self._whole(b"text/plain", b"")

    def _generate(self, tail: bytes) -> None:
        asked = _MAX_TOKENS.search(tail)
        self._tokens = int(asked[1]) if asked else 1
        if _STREAM.search(tail):
            self._stream(tail)
        else:
            self._whole(b"application/json", self._counts(_WHOLE))

    def _whole(self, kind: bytes, body: bytes, *, status: bytes = b"200 OK") -> None:
        self.write(
            b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (status, kind, len(body), body)
        )

    def _stream(self, tail: bytes) -> None:
        if self._transport is None:
            return
        self._usage = _USAGE_WANTED.search(tail) is not None
        self.streaming = True
        self._replica.streams += 1
        self._sent_tokens = 0
        self.write(_STREAM_HEAD)
        if self._tokens < 2:
            self.end_stream()
            return
        self.send_token()
        self._streams.add(self, self._tokens - 1)


async def serve(
    count: int, *, running: int = 0, delay_s: float = 0.0, token_s: float | None = None
) -> None:
    """Serve until standard input ends; each line there is answered with the counts so far.
    ``token_s`` None: streams tick together; else a line with a number sets it."""
    loop = asyncio.get_running_loop()
    replicas = [Replica(running) for _ in range(count)]
    alarms = Alarms()
    streams = TickingStreams() if token_s is None else PacedStreams(alarms, token_s)
    ports = []
    for replica in replicas:
        server = await loop.create_server(
            lambda r=replica: Connection(r, streams, alarms, delay_s),  # type: ignore[misc]
            "127.0.0.1",
            0,
            backlog=1024,
        )
        ports.append(server.sockets[0].getsockname()[1])
    print(orjson.dumps(ports).decode(), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if isinstance(streams, PacedStreams) and line[:1].isdigit():
            streams.token_s = float(line)
        counts = {
            "requests": [replica.requests for replica in replicas],
            "scrapes": [replica.scrapes for replica in replicas],
        }
        print(orjson.dumps(counts).decode(), flush=True)


class _Given(argparse.Namespace):
    replicas: int
    running: int
    delay_ms: float
    token_ms: float | None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Canned replicas for benchmarks.")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--running", type=int, default=0, help="requests each claims to run")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="before an answer begins")
    parser.add_argument("--token-ms", type=float, help="between the tokens of a stream")
    given = parser.parse_args(namespace=_Given())
    token_s = None if given.token_ms is None else given.token_ms / 1e3
    uvloop.run(
        serve(given.replicas, running=given.running, delay_s=given.delay_ms / 1e3, token_s=token_s)
    )


if __name__ == "__main__":
    main()
