"""A gateway's side of ext_proc, over a real gRPC channel: both transports behind one face."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import orjson
from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue, Metadata
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from picker import names
from picker.server.access_log import SERVICE as ACCESS_LOGS
from picker.server.ext_proc import SERVICE as EXT_PROC
from tests.picker.fleet import Fleet

JSON = {":status": "200", "content-type": "application/json"}
SSE = {":status": "200", "content-type": "text/event-stream; charset=utf-8"}

Call = grpc.aio.StreamStreamCall[ProcessingRequest, ProcessingResponse]


def header_map(headers: Mapping[str, str]) -> HeaderMap:
    return HeaderMap(
        headers=[HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
    )


def subset_hint(value: object) -> Metadata:
    """Metadata with a subset hint of any type."""
    metadata = Metadata()
    metadata.filter_metadata[names.SUBSET_NAMESPACE].update({names.SUBSET_KEY: value})
    return metadata


@dataclass
class Reply:
    """What the gateway is told about a request, however the transport says it."""

    status: int | None = None
    """Of an answer by the picker itself."""
    headers: dict[str, str] = field(default_factory=dict)
    """Set on the request, or of the answer."""
    removed: list[str] = field(default_factory=list)
    body: bytes | None = None
    """Sent instead of the request's body, or of the answer; None = unchanged."""
    chunks: list[tuple[int, bool]] = field(default_factory=list)
    """Size and end_of_stream of each body message (standard transport)."""
    metadata: dict[str, dict[str, object]] = field(default_factory=dict)
    clears_route_cache: bool = False

    @property
    def addresses(self) -> list[str]:
        destination = self.metadata[names.LB_NAMESPACE][names.DESTINATION]
        assert isinstance(destination, str)
        return destination.split(",")

    @property
    def error(self) -> dict[str, object]:
        assert self.status is not None, f"routed to {self.addresses}"
        assert self.body is not None
        error = orjson.loads(self.body)["error"]
        assert isinstance(error, dict)
        return error

    def take(self, message: ProcessingResponse) -> None:
        if message.HasField("dynamic_metadata"):
            self.metadata = MessageToDict(message.dynamic_metadata)
        kind = message.WhichOneof("response")
        if kind == "immediate_response":
            answer = message.immediate_response
            self.status, self.body = answer.status.code, answer.body
            self._mutate(answer.headers)
        elif kind in ("request_headers", "request_body"):
            response = getattr(message, kind).response
            self.clears_route_cache |= response.clear_route_cache
            self._mutate(response.header_mutation)
            if response.HasField("body_mutation"):
                mutation = response.body_mutation
                if mutation.HasField("streamed_response"):
                    part = mutation.streamed_response
                    self.chunks.append((len(part.body), part.end_of_stream))
                    self.body = (self.body or b"") + part.body
                else:
                    self.body = mutation.body

    def _mutate(self, mutation: object) -> None:
        for option in mutation.set_headers:  # type: ignore[attr-defined]
            assert not option.header.value, "raw_value is what Envoy reads"
            self.headers[option.header.key] = option.header.raw_value.decode()
        self.removed += mutation.remove_headers  # type: ignore[attr-defined]


@dataclass
class Exchange:
    """One request under way."""

    edge: Edge
    call: Call
    reply: Reply = field(default_factory=Reply)
    sent: bytes = b""
    response_headers: dict[str, str] = field(default_factory=dict)
    response_removed: list[str] = field(default_factory=list)

    async def receive(self) -> ProcessingResponse:
        return await next_message(self.call)

    async def respond(
        self,
        chunks: Sequence[bytes],
        headers: Mapping[str, str] = JSON,
        *,
        trailers: bool = False,
        served: str | None = None,
    ) -> list[bytes]:
        """Pass a response through to its end; what came back for each chunk, and for the
        trailers."""
        await self.begin_response(headers, served=served)
        out: list[bytes] = []
        for index, chunk in enumerate(chunks):
            end = not trailers and index == len(chunks) - 1
            out.append(await self.response_chunk(chunk, end=end))
        if trailers:
            await self.call.write(ProcessingRequest(response_trailers=HttpTrailers()))
            while (message := await self.receive()).HasField("response_body"):
                out.append(message.response_body.response.body_mutation.streamed_response.body)
            assert message.HasField("response_trailers")
        await self.close()
        return out

    async def close(self) -> None:
        """End the stream as a gateway does that is done, and wait for the other side."""
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF

    async def begin_response(
        self, headers: Mapping[str, str] = JSON, *, served: str | None = None
    ) -> None:
        context = Metadata()
        if served is not None:
            context.filter_metadata[names.LB_NAMESPACE][names.SERVED] = served
        await self.call.write(
            ProcessingRequest(
                response_headers=HttpHeaders(headers=header_map(headers)),
                metadata_context=context,
            )
        )
        message = await self.receive()
        assert message.HasField("response_headers")
        mutation = message.response_headers.response.header_mutation
        self.response_removed = list(mutation.remove_headers)
        self.response_headers = {
            option.header.key: option.header.raw_value.decode() for option in mutation.set_headers
        }

    async def response_chunk(self, chunk: bytes, *, end: bool = False) -> bytes:
        """One chunk, and the one message that must answer it at once."""
        await self.call.write(
            ProcessingRequest(response_body=HttpBody(body=chunk, end_of_stream=end))
        )
        message = await self.receive()
        assert message.HasField("response_body")
        part = message.response_body.response.body_mutation.streamed_response
        assert part.end_of_stream == end
        body: bytes = part.body
        return body

    async def finish(
        self, usage: tuple[int, int, int] = (10, 5, 0), *, address: str | None = None
    ) -> None:
        """A good end with ``usage`` (input, output, cached), the way the transport reports it."""
        await self.edge.finish(self, usage, address or self.reply.addresses[0])


@dataclass
class Edge:
    """A gateway that speaks one of the transports to a picker."""

    name: str
    channel: grpc.aio.Channel
    logs: grpc.aio.Channel
    """For access logs, of the fast path."""
    fleet: Fleet
    fast: bool

    async def ask(
        self,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
        *,
        path: str = "/v1/chat/completions",
        method: str | None = None,
        subset: object = None,
        metadata: Metadata | None = None,
        cut_bytes: int | None = None,
        with_body: Metadata | None = None,
    ) -> Reply:
        """The reply to a request that then ends well, if it was routed. ``with_body``: metadata
        of the messages that bring the body."""
        context = metadata or Metadata()
        if subset is not None:
            context.MergeFrom(subset_hint(subset))
        method = method or ("GET" if body is None else "POST")
        sent = {":method": method, ":path": path, "content-type": "application/json"}
        given = header_map({**sent, **(headers or {})})
        async with self.exchange(body, given, context, cut_bytes, with_body) as exchange:
            if exchange.reply.status is None:
                await exchange.finish()
        return exchange.reply

    @asynccontextmanager
    async def open(
        self, body: bytes | None, headers: Mapping[str, str] | None = None, *, path: str = ""
    ) -> AsyncIterator[Exchange]:
        """A request that the picker has answered and that stays under way."""
        sent = {
            ":method": "GET" if body is None else "POST",
            ":path": path or "/v1/chat/completions",
            "content-type": "application/json",
        }
        given = header_map({**sent, **(headers or {})})
        async with self.exchange(body, given, Metadata(), None) as exchange:
            yield exchange

    @asynccontextmanager
    async def exchange(
        self,
        body: bytes | None,
        headers: HeaderMap,
        context: Metadata,
        cut_bytes: int | None,
        with_body: Metadata | None = None,
    ) -> AsyncIterator[Exchange]:
        call = self.call()
        exchange = Exchange(self, call, sent=body or b"")
        try:
            await call.write(self.first(headers, context, ends=body is None))
            if self.fast:
                await self._ask_fast(exchange, body, with_body)
            else:
                await self._ask_standard(exchange, body, cut_bytes, with_body)
            yield exchange
        finally:
            call.cancel()

    def call(self) -> Call:
        method = self.channel.stream_stream(
            f"/{EXT_PROC}/Process",
            request_serializer=ProcessingRequest.SerializeToString,
            response_deserializer=ProcessingResponse.FromString,
        )
        call: Call = method()
        return call

    def first(self, headers: HeaderMap, context: Metadata, *, ends: bool) -> ProcessingRequest:
        duplex = ProcessingMode.FULL_DUPLEX_STREAMED
        mode = ProcessingMode.BUFFERED if self.fast else duplex
        response_mode = ProcessingMode.NONE if self.fast else duplex
        return ProcessingRequest(
            request_headers=HttpHeaders(headers=headers, end_of_stream=ends),
            metadata_context=context,
            protocol_config=ProtocolConfiguration(
                request_body_mode=mode, response_body_mode=response_mode
            ),
        )

    async def _ask_fast(
        self, exchange: Exchange, body: bytes | None, with_body: Metadata | None
    ) -> None:
        message = await exchange.receive()
        exchange.reply.take(message)
        if body is None or message.HasField("immediate_response"):
            return
        assert message.HasField("request_headers")
        let_through = set(exchange.reply.metadata.get(names.PENSTOCK_NAMESPACE, {}))
        assert set(exchange.reply.metadata) == {names.PENSTOCK_NAMESPACE}
        assert let_through == {names.ASKED, "picker"}, "they are let through before the decision"
        await exchange.call.write(
            ProcessingRequest(
                request_body=HttpBody(body=body, end_of_stream=True), metadata_context=with_body
            )
        )
        exchange.reply.take(await exchange.receive())

    async def _ask_standard(
        self,
        exchange: Exchange,
        body: bytes | None,
        cut_bytes: int | None,
        with_body: Metadata | None,
    ) -> None:
        # A refusal may come, and end the stream, before all of the body was sent.
        answered = asyncio.ensure_future(exchange.receive())
        if body is not None:
            cut = cut_bytes or max(len(body), 1)
            starts = range(0, max(len(body), 1), cut)
            for start in starts:
                part = HttpBody(
                    body=body[start : start + cut], end_of_stream=start + cut >= len(body)
                )
                with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    await exchange.call.write(
                        ProcessingRequest(request_body=part, metadata_context=with_body)
                    )
        reply = exchange.reply
        reply.take(await answered)
        while body is not None and reply.status is None and not _ended(reply):
            reply.take(await exchange.receive())

    async def finish(self, exchange: Exchange, usage: tuple[int, int, int], address: str) -> None:
        if self.fast:
            await self.log([entry_of(exchange.reply, usage, address)])
            return
        given, produced, cached = usage
        body = orjson.dumps(
            {
                "usage": {
                    "prompt_tokens": given,
                    "completion_tokens": produced,
                    "prompt_tokens_details": {"cached_tokens": cached},
                }
            }
        )
        await exchange.respond([body], served=address)

    async def log(self, entries: Sequence[HTTPAccessLogEntry]) -> None:
        """Send access log entries as Envoy does, and wait until they are taken."""
        message = StreamAccessLogsMessage()
        message.http_logs.log_entry.extend(entries)
        await self._logs()(iter([message]))

    @asynccontextmanager
    async def log_stream(
        self,
    ) -> AsyncIterator[grpc.aio.StreamUnaryCall[StreamAccessLogsMessage, bytes]]:
        """A stream of access log messages that stays open."""
        call = self._logs()()
        await call.wait_for_connection()
        try:
            yield call
        finally:
            call.cancel()

    def _logs(self) -> grpc.aio.StreamUnaryMultiCallable[StreamAccessLogsMessage, bytes]:
        method: grpc.aio.StreamUnaryMultiCallable[StreamAccessLogsMessage, bytes]
        method = self.logs.stream_unary(
            f"/{ACCESS_LOGS}/StreamAccessLogs",
            request_serializer=StreamAccessLogsMessage.SerializeToString,
        )
        return method


def _ended(reply: Reply) -> bool:
    return bool(reply.chunks) and reply.chunks[-1][1]


def entry_of(reply: Reply, usage: tuple[int, int, int], address: str) -> HTTPAccessLogEntry:
    """The access log entry of a request that ended well."""
    entry = HTTPAccessLogEntry()
    common = entry.common_properties
    common.metadata.filter_metadata[names.PENSTOCK_NAMESPACE].CopyFrom(
        _struct(reply.metadata[names.PENSTOCK_NAMESPACE])
    )
    counts = dict(zip(("input", "output", "cached"), usage, strict=True))
    common.metadata.filter_metadata[names.LUA_NAMESPACE].CopyFrom(_struct({"usage": counts}))
    host, _, port = address.rpartition(":")
    common.upstream_remote_address.socket_address.address = host
    common.upstream_remote_address.socket_address.port_value = int(port)
    entry.response.response_code.value = 200
    common.time_to_last_downstream_tx_byte.FromMilliseconds(1000)
    common.time_to_first_upstream_rx_byte.FromMilliseconds(100)
    return entry


def _struct(values: Mapping[str, object]) -> Struct:
    return ParseDict(dict(values), Struct())


async def next_message(call: Call) -> ProcessingResponse:
    """What the picker says next; there must be something."""
    message = await call.read()
    assert isinstance(message, ProcessingResponse), "the stream ended"
    return message
