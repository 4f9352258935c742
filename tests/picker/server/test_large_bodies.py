"""Bodies that are read and written past protobuf mean what they mean to protobuf."""

from __future__ import annotations

import pytest
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    ProcessingRequest,
    ProcessingResponse,
)
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.server import wire
from picker.server.large_bodies import LONG_BYTES, cut_body, mutation_up_to_body


def asked(body: bytes, **more: object) -> ProcessingRequest:
    metadata = Metadata()
    metadata.filter_metadata["envoy.lb"]["canary"] = True
    return ProcessingRequest(
        request_body=HttpBody(body=body, end_of_stream=True),
        metadata_context=metadata,
        **more,
    )


@pytest.mark.parametrize("size", [1, 127, 128, 20_000, LONG_BYTES, 3 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_body_is_cut_out(size: int, kind: type[bytes | bytearray]) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    whole = asked(body, observability_mode=True)
    apart = cut_body(kind(whole.SerializeToString()))
    assert apart is not None
    rest, cut = apart
    assert cut == body
    assert rest.HasField("request_body")
    assert (rest.metadata_context, rest.observability_mode) == (whole.metadata_context, True)
    read, again = wire.request_body(kind(whole.SerializeToString()))
    assert (read.metadata_context, again) == (whole.metadata_context, body)


@pytest.mark.parametrize(
    "message",
    [
        ProcessingRequest(),
        ProcessingRequest(request_headers=HttpHeaders(end_of_stream=True)),
        ProcessingRequest(request_body=HttpBody(end_of_stream=True)),
        ProcessingRequest(response_body=HttpBody(body=b"x")),
    ],
)
def test_where_there_is_none(message: ProcessingRequest) -> None:
    assert cut_body(message.SerializeToString()) is None
    assert wire.request_body(message.SerializeToString()) == (message, b"")


def test_a_body_that_is_there_twice_is_protobufs_to_read() -> None:
    twice = asked(b"one").SerializeToString() + asked(b"two").SerializeToString()
    assert cut_body(twice) is None
    body = ProcessingRequest(request_body=HttpBody(body=b"one")).SerializeToString()
    inner = body[:1] + bytes((body[1] * 2,)) + body[2:] * 2
    assert ProcessingRequest.FromString(inner).request_body.body == b"one"
    assert cut_body(inner) is None


_GOOD = asked(b"hello").SerializeToString()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.data())
def test_what_protobuf_cannot_read_is_not_read(data: st.DataObject) -> None:
    broken = bytearray(_GOOD)
    at = data.draw(st.integers(0, len(broken) - 1))
    if data.draw(st.booleans()):
        del broken[at:]
    else:
        broken[at] = data.draw(st.integers(0, 255))
    try:
        wanted = ProcessingRequest.FromString(bytes(broken))
    except DecodeError:
        wanted = None
    try:
        apart = cut_body(bytes(broken))
    except DecodeError:
        assert wanted is None
        return
    if apart is not None and wanted is not None:
        assert apart[1] == wanted.request_body.body
        assert apart[0].metadata_context == wanted.metadata_context


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 70_000])
def test_a_changed_body_stands_at_the_end(size: int) -> None:
    message = ProcessingResponse()
    message.request_body.response.clear_route_cache = True
    option = message.request_body.response.header_mutation.set_headers.add()
    option.header.key = "x"
    message.dynamic_metadata["penstock"] = {"id": "p0-1"}
    body = b"x" * size
    written = message.SerializeToString() + mutation_up_to_body(size) + body
    message.request_body.response.body_mutation.body = body
    assert ProcessingResponse.FromString(written) == message
