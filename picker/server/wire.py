"""Between Envoy's ext_proc messages and the picker's own values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue, HeaderValueOption, Metadata
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
from picker.decision import Answer, Decision, RequestHead

BODY_CHUNK_BYTES: Final = 62_000
"""Largest body message; Envoy's default buffer takes no larger one."""
ANSWER_DETAILS: Final = "penstock"
"""Response code details of what the picker answers itself."""

_OVERWRITE: Final = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD

CONTINUE_REQUEST_HEADERS: Final = ProcessingResponse(
    request_headers=HeadersResponse()
).SerializeToString()
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
    return RequestHead(
        method=headers.get(":method", "POST"),
        path=path.partition("?")[0],
        headers=headers,
        subset=_subset(message.metadata_context),
        received_s=received_s,
    )


def _subset(metadata: Metadata) -> frozenset[str] | None:
    namespace = metadata.filter_metadata.get(names.SUBSET_NAMESPACE)
    if namespace is None or names.SUBSET_KEY not in namespace.fields:
        return None
    value = namespace.fields[names.SUBSET_KEY]
    if value.HasField("null_value"):
        return None
    if value.HasField("list_value"):
        entries: Iterable[str] = (item.string_value for item in value.list_value.values)
    else:
        entries = value.string_value.split(",")
    return frozenset(entry.strip() for entry in entries if entry.strip())


def _option(key: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=key, raw_value=value.encode()), append_action=_OVERWRITE
    )


def mutation(set_headers: Sequence[tuple[str, str]], remove: Sequence[str]) -> HeaderMutation:
    """Headers to set (replacing) and to remove."""
    return HeaderMutation(
        set_headers=[_option(key, value) for key, value in set_headers], remove_headers=remove
    )


def _value(given: object) -> Value:
    if isinstance(given, bool):
        return Value(bool_value=given)
    if isinstance(given, int | float):
        return Value(number_value=given)
    if isinstance(given, Mapping):
        return Value(struct_value=_struct(given))
    return Value(string_value=str(given))


def _struct(given: Mapping[str, object]) -> Struct:
    return Struct(fields={key: _value(value) for key, value in given.items()})


def decision_metadata(decision: Decision, kept: Metadata | None, *, ours: bool) -> Struct:
    """Dynamic metadata of a decision: the endpoints, and with ``ours`` what our filters need.

    ``kept`` is the request's metadata context: other keys under ``envoy.lb`` stay.
    """
    balancing: dict[str, Value] = {}
    if kept is not None and names.LB_NAMESPACE in kept.filter_metadata:
        balancing.update(kept.filter_metadata[names.LB_NAMESPACE].fields)
    balancing[names.DESTINATION] = Value(string_value=decision.destination)
    if decision.scores is not None:
        balancing[names.SCORES] = _value(decision.scores)
    fields = {names.LB_NAMESPACE: Value(struct_value=Struct(fields=balancing))}
    if ours:
        fields[names.PENSTOCK_NAMESPACE] = _value(decision.metadata)
    return Struct(fields=fields)


def immediate(answer: Answer) -> bytes:
    """An answer that the picker gives itself, without a replica."""
    response = ImmediateResponse(
        status=HttpStatus(code=answer.status),
        headers=mutation(answer.headers, ()),
        body=answer.body,
        details=ANSWER_DETAILS,
    )
    return _encoded(ProcessingResponse(immediate_response=response))


def common(
    decision: Decision, set_headers: Sequence[tuple[str, str]], also_remove: Sequence[str] = ()
) -> CommonResponse:
    """The part of an answer that carries the decision's headers."""
    setting = {name for name, _ in set_headers}
    # Not every gateway removes before it sets.
    remove = [n for n in (*decision.remove_headers, *also_remove) if n not in setting]
    return CommonResponse(header_mutation=mutation(set_headers, remove), clear_route_cache=True)


def on_headers(
    decision: Decision,
    set_headers: Sequence[tuple[str, str]],
    meta: Struct,
    also_remove: Sequence[str] = (),
) -> bytes:
    """The decision as the answer to the request's headers."""
    response = common(decision, set_headers, also_remove)
    return _encoded(
        ProcessingResponse(
            request_headers=HeadersResponse(response=response), dynamic_metadata=meta
        )
    )


def on_body(decision: Decision, set_headers: Sequence[tuple[str, str]], meta: Struct) -> bytes:
    """The decision as the answer to the request's whole body (BUFFERED)."""
    response = common(decision, set_headers)
    if decision.body is not None:
        response.body_mutation.CopyFrom(BodyMutation(body=decision.body))
    return _encoded(
        ProcessingResponse(request_body=BodyResponse(response=response), dynamic_metadata=meta)
    )


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


def on_response_headers(set_headers: Sequence[tuple[str, str]], remove: Sequence[str]) -> bytes:
    """Answer to the response's headers."""
    return _encoded(
        ProcessingResponse(
            response_headers=HeadersResponse(
                response=CommonResponse(header_mutation=mutation(set_headers, remove))
            )
        )
    )


def response_head(headers: HttpHeaders) -> dict[str, str]:
    """The response's headers by lower-case name."""
    return header_dict(headers.headers)
