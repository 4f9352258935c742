"""Between Envoy's ext_proc messages and the picker's own values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias

from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValueOption, Metadata
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    HttpHeaders,
    ImmediateResponse,
    ProcessingRequest,
    ProcessingResponse,
    StreamedBodyResponse,
    TrailersResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from picker import names
from picker.request.answer import Answer, Decision, Handover
from picker.request.head import RequestHead
from picker.request.target import read_target
from picker.server.large_bodies import LONG_BYTES, cut_body, mutation_up_to_body

BODY_CHUNK_BYTES: Final = 62_000
"""Largest body message; Envoy's default buffer takes no larger one."""

MOST_S: Final = 3600.0
"""Longest that Envoy can be asked to wait for an answer."""

_STATUS: Final = re.compile("[1-9][0-9]{2}")
_MISSING: Final = "Jwt is missing"
"""What Envoy says when there was no token."""
_NO_CLAIMS: Final[Mapping[str, object]] = MappingProxyType({})

HeaderList: TypeAlias = Sequence[tuple[str, str]]

_OVERWRITE: Final = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD

CONTINUE_RESPONSE_HEADERS: Final = ProcessingResponse(
    response_headers=HeadersResponse()
).SerializeToString()
CONTINUE_REQUEST_TRAILERS: Final = ProcessingResponse(
    request_trailers=TrailersResponse()
).SerializeToString()
CONTINUE_RESPONSE_TRAILERS: Final = ProcessingResponse(
    response_trailers=TrailersResponse()
).SerializeToString()


def _encoded(message: Message) -> bytes:
    return message.SerializeToString()


def header_dict(headers: HeaderMap) -> dict[str, str]:
    """Headers by lower-case name; ``raw_value`` before ``value``, repeated names join by comma."""
    result: dict[str, str] = {}
    for header in headers.headers:
        raw = header.raw_value
        value = raw.decode("utf-8", "replace") if raw else header.value
        key = header.key.lower()
        result[key] = f"{result[key]},{value}" if key in result else value
    return result


def request_head(message: ProcessingRequest, received_s: float) -> RequestHead:
    """The first message of a stream as the picker sees it."""
    headers = header_dict(message.request_headers.headers)
    path = headers.get(":path")
    if path is None:
        path = next((headers[name] for name in names.ORIGINAL_PATHS if name in headers), "/")
    target = read_target(path)
    claims, claims_error = _claims(message.metadata_context)
    return RequestHead(
        method=headers.get(":method", "POST"),
        path=target.path,
        headers=headers,
        subset=subset_of(message.metadata_context),
        received_s=received_s,
        claims=claims,
        claims_error=claims_error,
        respelled=target.respelled,
        header_lines=len(message.request_headers.headers.headers),
    )


def _claims(metadata: Metadata) -> tuple[Mapping[str, object], str]:
    """Of the token that the gateway has verified, and why it refused one."""
    namespace = metadata.filter_metadata.get(names.JWT_NAMESPACE)
    if namespace is None:
        return _NO_CLAIMS, ""
    if names.CLAIMS in namespace.fields:
        return _plain_struct(namespace.fields[names.CLAIMS].struct_value), ""
    if names.CLAIMS_FAILED not in namespace.fields:
        return _NO_CLAIMS, ""
    failed = namespace.fields[names.CLAIMS_FAILED].struct_value
    error = failed.fields["message"].string_value if "message" in failed.fields else ""
    return _NO_CLAIMS, "" if error == _MISSING else error or "the token was refused"


def _plain_struct(struct: Struct) -> dict[str, object]:
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> object:
    """As JSON has it: whole numbers are ints."""
    match value.WhichOneof("kind"):
        case "string_value":
            text: str = value.string_value
            return text
        case "number_value":
            number: float = value.number_value
            return int(number) if number.is_integer() else number
        case "bool_value":
            return bool(value.bool_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "struct_value":
            return _plain_struct(value.struct_value)
    return None


def subset_of(metadata: Metadata) -> frozenset[str] | None:
    """The endpoints that the gateway allows; None: no restriction. A hint of any other type than a
    list or a string names no endpoint, so none is allowed."""
    namespace = metadata.filter_metadata.get(names.SUBSET_NAMESPACE)
    if namespace is None or names.SUBSET_KEY not in namespace.fields:
        return None
    hint = _plain(namespace.fields[names.SUBSET_KEY])
    return None if hint is None else frozenset(_endpoints(hint))


def _endpoints(hint: object) -> Iterator[str]:
    if isinstance(hint, str):
        yield from filter(None, (entry.strip() for entry in hint.split(",")))
    elif isinstance(hint, list):
        for entry in hint:
            yield from _endpoints(entry)


def request_body(message: bytes | bytearray) -> tuple[ProcessingRequest, bytes]:
    """A message that has the request's body, without it, and the body. Raises DecodeError."""
    if len(message) >= LONG_BYTES and (apart := cut_body(message)) is not None:
        return apart
    whole = ProcessingRequest.FromString(message)
    return whole, whole.request_body.body


def with_later(metadata: Metadata, later: ProcessingRequest) -> Metadata:
    """The request's metadata with what a later message of it brings; a namespace that is there
    twice is as it came last."""
    if not later.metadata_context.filter_metadata:
        return metadata
    merged = Metadata()
    merged.CopyFrom(metadata)
    for name, namespace in later.metadata_context.filter_metadata.items():
        merged.filter_metadata[name].CopyFrom(namespace)
    return merged


def _mutate(into: HeaderMutation, set_headers: HeaderList, remove: Iterable[str]) -> None:
    for key, value in set_headers:
        option = into.set_headers.add(append_action=_OVERWRITE)
        option.header.key = key
        option.header.raw_value = value.encode()
    into.remove_headers.extend(remove)


def _fill(into: Struct, values: Mapping[str, object]) -> None:
    fields = into.fields
    for key, value in values.items():
        if isinstance(value, bool):
            fields[key].bool_value = value
        elif isinstance(value, int | float):
            fields[key].number_value = value
        elif isinstance(value, Mapping):
            _fill(fields[key].struct_value, value)
        else:
            fields[key].string_value = str(value)


def _decide(
    into: ProcessingResponse,
    common: CommonResponse,
    decision: Decision,
    destination: str,
    set_headers: HeaderList,
    remove: Iterable[str],
) -> None:
    """The parts that a decision has in any transport. Messages are filled in place: building
    them inside out copies each one into the next."""
    setting = {name for name, _ in set_headers}
    # Not every gateway removes before it sets.
    _mutate(common.header_mutation, set_headers, (n for n in remove if n not in setting))
    common.clear_route_cache = True
    balancing = into.dynamic_metadata.fields[names.LB_NAMESPACE].struct_value
    balancing.fields[names.DESTINATION].string_value = destination
    if decision.scores is not None:
        _fill(balancing.fields[names.SCORES].struct_value, decision.scores)


def _keep(into: ProcessingResponse, context: Metadata) -> None:
    """Other keys under ``envoy.lb`` of the request's metadata stay as they are."""
    if names.LB_NAMESPACE in context.filter_metadata:
        given = context.filter_metadata[names.LB_NAMESPACE]
        into.dynamic_metadata.fields[names.LB_NAMESPACE].struct_value.CopyFrom(given)


def handed_over(handover: Handover, picker: str) -> bytes:
    """To another process of this gateway, on the fast path; answers the request's headers, and its
    body follows unseen."""
    message = ProcessingResponse()
    common = message.request_headers.response
    headers = (*handover.set_headers, (names.POOL_HEADER, handover.cluster))
    _mutate(common.header_mutation, headers, handover.remove_headers)
    common.clear_route_cache = True
    ours = message.dynamic_metadata.fields[names.PENSTOCK_NAMESPACE].struct_value
    _fill(ours, {names.HANDED_OVER: handover.tenant, "picker": picker})
    return _encoded(message)


def immediate(answer: Answer) -> bytes:
    """An answer that the picker gives itself, without a replica."""
    response = ImmediateResponse(
        status=HttpStatus(code=answer.status), body=answer.body, details=names.ANSWER_DETAILS
    )
    _mutate(response.headers, answer.headers, ())
    return _encoded(ProcessingResponse(immediate_response=response))


def more_time(timeout_s: float) -> bytes:
    """Asks the gateway to wait so much longer for the answer to its last message; one whose filter
    has no ``max_message_timeout``, or a smaller one, ignores that."""
    message = ProcessingResponse()
    message.override_message_timeout.FromMilliseconds(round(1000 * min(timeout_s, MOST_S)))
    return _encoded(message)


def continue_to_body(request_id: str, picker: str, *, watch: bool = False) -> bytes:
    """Answer to the request's headers on the fast path: the body, please. Names the request for
    Envoy's access log, so that its end is reported even when the decision comes too late for it.
    ``watch``: the response's headers, too, when they come."""
    before, after = _around_id(len(request_id.encode()), picker, watch=watch)
    return before + request_id.encode() + after


@lru_cache(64)
def _around_id(size: int, picker: str, *, watch: bool) -> tuple[bytes, bytes]:
    """What stands before and after an id of so many bytes."""
    anything = "\0" * size
    message = ProcessingResponse(request_headers=HeadersResponse())
    if watch:
        mode = message.mode_override
        mode.request_header_mode = mode.response_header_mode = ProcessingMode.SEND
        mode.request_trailer_mode = mode.response_trailer_mode = ProcessingMode.SKIP
        mode.request_body_mode = ProcessingMode.BUFFERED
    ours = message.dynamic_metadata.fields[names.PENSTOCK_NAMESPACE].struct_value
    _fill(ours, {names.ASKED: anything, "picker": picker})
    before, _, after = _encoded(message).partition(anything.encode())
    return before, after


def decided(
    decision: Decision,
    context: Metadata,
    set_headers: HeaderList,
    also_remove: Sequence[str],
    *,
    fallbacks: int,
) -> bytes:
    """The decision on the standard transport, with ``fallbacks`` further endpoints: answers the
    request's headers."""
    message = ProcessingResponse()
    _keep(message, context)
    destination = decision.destination(fallbacks)
    headers = (*set_headers, (names.DESTINATION, destination))
    remove = (*decision.remove_headers, *also_remove)
    common = message.request_headers.response
    _decide(message, common, decision, destination, headers, remove)
    return _encoded(message)


def decided_fast(
    decision: Decision, context: Metadata, set_headers: HeaderList, *, on_body: bool
) -> tuple[bytes, bytes]:
    """The decision on the fast path, with what our own filters need to know: answers the
    request's whole body, or the headers of a request that has none. In two parts; the second is
    the changed body."""
    message = ProcessingResponse()
    _keep(message, context)
    part = message.request_body if on_body else message.request_headers
    common = part.response
    destination = decision.destination()
    _decide(message, common, decision, destination, set_headers, decision.remove_headers)
    ours = message.dynamic_metadata.fields[names.PENSTOCK_NAMESPACE].struct_value
    _fill(ours, decision.metadata)
    if decision.body is None:
        return _encoded(message), b""
    return _encoded(message) + mutation_up_to_body(len(decision.body)), decision.body


def streamed_chunks(body: bytes, *, end_of_stream: bool = True) -> list[StreamedBodyResponse]:
    """A body in messages of at most ``BODY_CHUNK_BYTES``; an empty body is one empty message."""
    starts = range(0, max(len(body), 1), BODY_CHUNK_BYTES)
    return [
        StreamedBodyResponse(
            body=body[start : start + BODY_CHUNK_BYTES],
            end_of_stream=end_of_stream and start + BODY_CHUNK_BYTES >= len(body),
        )
        for start in starts
    ]


def request_chunk(chunk: StreamedBodyResponse) -> bytes:
    """One body message towards the replica (FULL_DUPLEX_STREAMED)."""
    return _encoded(
        ProcessingResponse(
            request_body=BodyResponse(
                response=CommonResponse(body_mutation=BodyMutation(streamed_response=chunk))
            )
        )
    )


def response_chunk(chunk: StreamedBodyResponse) -> bytes:
    """One body message towards the client (FULL_DUPLEX_STREAMED)."""
    return _encoded(
        ProcessingResponse(
            response_body=BodyResponse(
                response=CommonResponse(body_mutation=BodyMutation(streamed_response=chunk))
            )
        )
    )


def on_response_headers(set_headers: HeaderList, remove: Sequence[str]) -> bytes:
    """Answer to the response's headers."""
    message = ProcessingResponse()
    _mutate(message.response_headers.response.header_mutation, set_headers, remove)
    message.response_headers.SetInParent()  # also when nothing changes
    return _encoded(message)


PASS_RESPONSE_HEADERS: Final = on_response_headers((), ())
"""The response's headers as they are."""


def response_head(headers: HttpHeaders) -> dict[str, str]:
    """The response's headers by lower-case name."""
    return header_dict(headers.headers)


def status_of(headers: Mapping[str, str]) -> int:
    """A response's status; 500 for one that is none."""
    status = headers.get(":status", "")
    return int(status) if _STATUS.fullmatch(status) else 500
