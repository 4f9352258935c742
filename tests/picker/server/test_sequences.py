"""Whatever a gateway sends, in whatever order, and however it leaves: the stream ends, nothing is
kept of it, and the next request is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue, Metadata
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from picker import names
from picker.server.health import Health
from picker.server.listen import Address, Listeners, Servers
from tests.picker.accounts import Accounts
from tests.picker.fleet import MODEL, address, chat, fleet
from tests.picker.server.edge import JSON, SSE, Edge, header_map
from tests.real.ports import free_port

_TIMEOUT_S = 10.0

POST = {":method": "POST", ":path": "/v1/chat/completions", "content-type": "application/json"}
DUPLEX = ProcessingMode.FULL_DUPLEX_STREAMED

HEAD = ProcessingRequest(
    request_headers=HttpHeaders(headers=header_map(POST)),
    protocol_config=ProtocolConfiguration(
        request_body_mode=DUPLEX,
        response_body_mode=DUPLEX,
        send_body_without_waiting_for_header_response=True,
    ),
)
BUFFERED = ProcessingRequest(
    request_headers=HttpHeaders(headers=header_map(POST)),
    protocol_config=ProtocolConfiguration(request_body_mode=ProcessingMode.BUFFERED),
)
BODY = ProcessingRequest(request_body=HttpBody(body=chat(stream=True), end_of_stream=True))
RESPONSE = ProcessingRequest(response_headers=HttpHeaders(headers=header_map(SSE)))
LAST = ProcessingRequest(response_body=HttpBody(body=b"data: [DONE]\n\n", end_of_stream=True))
EMPTY = ProcessingRequest()


@dataclass(frozen=True)
class Sequence:
    """What a gateway sends on one stream, and how it leaves."""

    messages: tuple[ProcessingRequest, ...]
    leaves: Literal["half-close", "cancel", "cancel at once"]


_TEXT = st.sampled_from(["", "x", "é", "\x7f", "-1", "1e999", "²", "9" * 400, "true", "a" * 5000])
_KEYS = st.sampled_from(
    [
        *(":path", ":method", ":status", "content-type", "content-length", "content-encoding"),
        *(names.DESTINATION, names.SESSION_ID, names.SESSION_TOKEN, *names.OBJECTIVE, "HOST"),
        *("traceparent", "x-request-id", "prefer", "authorization", "te", "x"),
    ]
)
_VALUES = _TEXT | st.sampled_from(
    ["/v1/models", "/", "/v1/rerank", "GET", "CONNECT", "HEAD", "500", "600", "if-available"]
)
_STATUSES = st.sampled_from(["200", "200", "500", "²", "9" * 5000, "", "-1", "ok", "99999999999"])


@st.composite
def _headers(draw: st.DrawFn, base: dict[str, str]) -> HeaderMap:
    """Some headers with odd ones over them, some twice, some in the old field."""
    made = header_map(base if draw(st.integers(0, 5)) else {})
    for key, value in draw(st.lists(st.tuples(_KEYS, _VALUES), max_size=3)):
        if draw(st.booleans()):
            made.headers.append(HeaderValue(key=key, value=value))
        else:
            made.headers.append(HeaderValue(key=key, raw_value=value.encode() or b"\xff\x00"))
    return made


_HINTS: st.SearchStrategy[Value] = st.recursive(
    st.builds(Value, null_value=st.just(0))
    | st.builds(Value, number_value=st.floats())
    | st.builds(Value, bool_value=st.booleans())
    | st.builds(Value, string_value=_TEXT | st.just(address(1)))
    | st.just(Value()),
    lambda inner: (
        st.builds(
            lambda values: Value(list_value=ListValue(values=values)), st.lists(inner, max_size=3)
        )
        | st.builds(
            lambda fields: Value(struct_value=Struct(fields=fields)),
            st.dictionaries(_TEXT, inner, max_size=2),
        )
    ),
    max_leaves=5,
)


@st.composite
def _metadata(draw: st.DrawFn) -> Metadata:
    metadata = Metadata()
    for namespace, key in (
        (names.SUBSET_NAMESPACE, names.SUBSET_KEY),
        (names.LB_NAMESPACE, names.SERVED),
        (names.LB_NAMESPACE, names.DESTINATION),
        (names.JWT_NAMESPACE, names.CLAIMS),
        (names.JWT_NAMESPACE, names.CLAIMS_FAILED),
    ):
        if draw(st.integers(0, 3)) == 0:
            metadata.filter_metadata[namespace].fields[key].CopyFrom(draw(_HINTS))
    return metadata


_BODIES = st.sampled_from(
    [
        *(chat(), chat(stream=True), chat(model=None), chat(model="none")),
        *(b"", b"{", b"null", b"[]", b"\xff\xfe", b"{}" * 5000, b"[" * 5000),
        b'{"model":"%s","messages":[]}' % MODEL.encode(),
    ]
)
_ANSWERS = st.sampled_from(
    [
        *(b"", b"data: ", b"data: {}\n\n", b"data: [DONE]\r\n\r\n", b"\n", b"\xff", b"x" * 70_000),
        *(b'data: {"choices":[{}]}\n', b'data: {"usage":{"prompt_tokens":1e99},"choices":[]}\n\n'),
        *(b'{"usage":{"prompt_tokens":-1,"completion_tokens":"x"}}', b'{"usage":[]}'),
    ]
)
_ENDS = st.booleans()


def _body(data: bytes, ends: bool) -> HttpBody:
    return HttpBody(body=data, end_of_stream=ends)


@st.composite
def _message(draw: st.DrawFn) -> ProcessingRequest:
    match draw(st.integers(0, 9)):
        case 0 | 1:
            head = HttpHeaders(headers=draw(_headers(POST)), end_of_stream=draw(_ENDS))
            made = ProcessingRequest(request_headers=head)
            if draw(st.booleans()):
                made.protocol_config.request_body_mode = draw(st.integers(0, 4))
                made.protocol_config.response_body_mode = draw(st.integers(0, 4))
        case 2 | 3:
            made = ProcessingRequest(request_body=_body(draw(_BODIES), draw(_ENDS)))
        case 4:
            made = ProcessingRequest(request_trailers=HttpTrailers())
        case 5:
            base = {**draw(st.sampled_from([JSON, SSE])), ":status": draw(_STATUSES)}
            head = HttpHeaders(headers=draw(_headers(base)), end_of_stream=draw(_ENDS))
            made = ProcessingRequest(response_headers=head)
        case 6 | 7:
            made = ProcessingRequest(response_body=_body(draw(_ANSWERS), draw(_ENDS)))
        case 8:
            made = ProcessingRequest(response_trailers=HttpTrailers())
        case _:
            made = ProcessingRequest(observability_mode=draw(st.booleans()))
    if draw(st.integers(0, 2)) == 0:
        made.metadata_context.CopyFrom(draw(_metadata()))
    return made


_SEQUENCES = st.builds(
    lambda prefix, rest, leaves: Sequence((*prefix, *rest), leaves),
    st.sampled_from(
        [(), (HEAD,), (HEAD, BODY), (HEAD, BODY, RESPONSE), (BUFFERED,), (BUFFERED, BODY)]
    ),
    st.lists(_message(), max_size=6),
    st.sampled_from(["half-close", "cancel", "cancel at once"]),
)


@dataclass
class Place:
    """A picker with its servers, and a gateway on each of its ports."""

    edges: tuple[Edge, Edge]
    servers: Servers
    accounts: Accounts

    async def play(self, edge: Edge, sequence: Sequence) -> None:
        """Sends all of it, reads what comes meanwhile, and waits for the end of the stream."""
        call = edge.call()

        async def read() -> None:
            while isinstance(await call.read(), ProcessingResponse):
                pass

        reading = asyncio.create_task(read())
        try:
            for message in sequence.messages:
                await call.write(message)
            if sequence.leaves == "half-close":
                await call.done_writing()
            elif sequence.leaves == "cancel":
                await asyncio.sleep(0.003)
                call.cancel()
            else:
                call.cancel()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass  # the picker has ended it
        async with asyncio.timeout(_TIMEOUT_S):
            await asyncio.gather(reading, return_exceptions=True)
            await call.code()

    async def settled(self) -> None:
        """Nothing is left of any request. On the fast path Envoy's log has the last word."""
        picker = self.edges[0].fleet.picker
        await until(lambda: not self.servers.serves)
        if len(picker.flights):
            await self.edges[1].log([_ended(f"{picker.id}-{picker._count}")])
        assert self.edges[0].fleet.is_settled
        assert self.accounts.reserved == len(self.accounts.settled) + self.accounts.released


def _ended(request_id: str) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry()
    ours = entry.common_properties.metadata.filter_metadata[names.PENSTOCK_NAMESPACE]
    ours.update({"id": request_id, "picker": "p0"})
    return entry


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - many things may make it true
            await asyncio.sleep(0)


@pytest.fixture
async def place(run_dir: Path) -> AsyncIterator[Place]:
    accounts = Accounts()
    made = fleet(limiter=accounts)
    unix = run_dir / "picker", run_dir / "logs"
    listeners = Listeners(*unix, Address("127.0.0.1", free_port()), None)
    servers = Servers(made.picker, Health(made.picker), listeners)
    await servers.start()
    assert listeners.ext_proc is not None
    async with (
        grpc.aio.insecure_channel(listeners.ext_proc.target) as standard,
        grpc.aio.insecure_channel(f"unix:{unix[0]}") as fast,
        grpc.aio.insecure_channel(f"unix:{unix[1]}") as logs,
    ):
        edges = Edge("standard", standard, logs, made, False), Edge("fast", fast, logs, made, True)
        yield Place(edges, servers, accounts)
    await servers.stop(0)


@settings(
    max_examples=200,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sequence=_SEQUENCES, fast=st.booleans())
@example(sequence=Sequence((HEAD, BODY, RESPONSE, LAST), "half-close"), fast=False)
@example(sequence=Sequence((HEAD, BODY, LAST, RESPONSE, LAST, HEAD, BODY), "cancel"), fast=False)
@example(sequence=Sequence((EMPTY,), "half-close"), fast=True)
@example(sequence=Sequence((BUFFERED, BODY, BODY, LAST), "cancel at once"), fast=True)
async def test_any_sequence(
    place: Place, caplog: pytest.LogCaptureFixture, sequence: Sequence, fast: bool
) -> None:
    edge = place.edges[fast]
    await place.play(edge, sequence)
    await place.settled()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    # A gateway may answer 500 itself; the picker never does.
    assert "internal_error" not in {seen.reason for seen in edge.fleet.seen.rejections}
    assert len((await edge.ask(chat())).addresses) == 3
    await place.settled()
