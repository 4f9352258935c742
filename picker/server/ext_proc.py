"""The ext_proc service: one stream a request, in one of two transports.

Fast path (our own Envoy): request BUFFERED, response not seen; the stream ends with the decision.
Standard path (Endpoint Picker protocol): FULL_DUPLEX_STREAMED both ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final

import grpc
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from picker import names
from picker.core import Picker
from picker.request.answer import Answer, Decision
from picker.request.caller import ANONYMOUS
from picker.request.labels import RequestLabels
from picker.seams.observer import Rejected
from picker.server import wire
from picker.server.exchange import StandardExchange

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"

_NOT_DUPLEX: Final = (
    "This port speaks the Endpoint Picker protocol: set request_body_mode and"
    " response_body_mode to FULL_DUPLEX_STREAMED, and trailer modes to SEND. This gateway has"
    " request_body_mode %s and response_body_mode %s."
)
_DUPLEX: Final[int] = ProcessingMode.FULL_DUPLEX_STREAMED

_SENT_KNOWN_S: Final = 1.0
"""gRPC reports within this time whether a message was sent, or never."""

_REQUEST_COMES_S: Final = 0.2
"""A request that is refused for its modes is read for at most this time."""

Context = grpc.aio.ServicerContext[ProcessingRequest, bytes]


class ExternalProcessor:
    """Serves one stream a request. Without ``fast_path`` only FULL_DUPLEX_STREAMED is spoken: who
    shows us no responses would have to send us access logs."""

    def __init__(self, picker: Picker, *, fast_path: bool) -> None:
        self._picker = picker
        self.fast_path = fast_path
        self.running = 0
        """Streams being served."""

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC handler to add to a server."""
        method: grpc.RpcMethodHandler[ProcessingRequest, bytes]
        method = grpc.stream_stream_rpc_method_handler(
            self._process, request_deserializer=ProcessingRequest.FromString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Process": method})

    async def _process(self, _: AsyncIterator[ProcessingRequest], context: Context) -> None:
        first = await context.read()
        if not isinstance(first, ProcessingRequest) or not first.HasField("request_headers"):
            return
        self.running += 1
        try:
            if self._is_buffered(first):
                await self._buffered(first, context.read, context.write)
            elif _is_duplex(first):
                await StandardExchange(self._picker, context, first).run()
            else:
                self._picker.refused_by_proxy(_refusal(first, self._picker.now()))
                await _refuse(first, context)
        finally:
            self.running -= 1

    def _is_buffered(self, first: ProcessingRequest) -> bool:
        if not self.fast_path:
            return False
        declared: int = first.protocol_config.request_body_mode
        return declared != _DUPLEX

    async def _buffered(
        self,
        first: ProcessingRequest,
        read: Callable[[], Awaitable[object]],
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        head = wire.request_head(first, self._picker.now())
        begun = await self._picker.begin(head)
        if isinstance(begun, Answer):
            await write(wire.immediate(begun))
            return
        body = b""
        metadata = given = first.metadata_context
        without_body = first.request_headers.end_of_stream
        if not without_body:
            await write(wire.continue_to_body(begun.id, self._picker.id))
            message = await read()
            if not isinstance(message, ProcessingRequest) or not message.HasField("request_body"):
                return
            body = message.request_body.body
            metadata = wire.with_later(metadata, message)
            if metadata is not given:
                begun.head = replace(head, subset=wire.subset_of(metadata))
        outcome = await self._picker.offer(begun, body)
        if isinstance(outcome, Answer):
            await write(wire.immediate(outcome))
            return
        decided = wire.decided_fast(
            outcome, metadata, _fast_headers(outcome), on_body=not without_body
        )
        sending = asyncio.ensure_future(write(decided))
        try:
            await asyncio.shield(sending)
        except BaseException:
            # Envoy ends the stream as soon as it has the decision, and that may cancel us before
            # gRPC has reported that it was sent. Only one that Envoy never got is given back: no
            # access log will report its end.
            if not await _was_sent(sending):
                self._picker.abandon(outcome)
            raise


def _mode_name(mode: int) -> str:
    known: dict[int, str] = {v: k for k, v in ProcessingMode.BodySendMode.items()}
    return known.get(mode, str(mode))


def _is_duplex(first: ProcessingRequest) -> bool:
    """Both ways: usage is read from responses, and one that is not shown would not be charged. A
    gateway that declares no modes is believed to have them."""
    if not first.HasField("protocol_config"):
        return True
    declared = first.protocol_config
    modes: tuple[int, int] = (declared.request_body_mode, declared.response_body_mode)
    return modes == (_DUPLEX, _DUPLEX)


def _refusal(first: ProcessingRequest, now_s: float) -> Rejected:
    """For log and metrics. What the gateway answers its client is its own choice."""
    head = wire.request_head(first, now_s)
    labels = RequestLabels(
        request_id=head.headers.get(names.REQUEST_ID, ""),
        tenant=ANONYMOUS,
        model="",
        pool="",
        path=head.path,
    )
    return Rejected(labels, 503, "wrong_processing_mode", decision_s=0.0)


async def _refuse(first: ProcessingRequest, context: Context) -> None:
    """Says what to set. A gateway that does not wait for an answer may write its request first:
    a write that meets the refusal would fail without its reason."""
    if not first.request_headers.end_of_stream:
        reading = asyncio.ensure_future(_read_request(context))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({reading}, timeout=_REQUEST_COMES_S)
    declared = first.protocol_config
    modes = (declared.request_body_mode, declared.response_body_mode)
    await context.abort(
        grpc.StatusCode.FAILED_PRECONDITION, _NOT_DUPLEX % tuple(map(_mode_name, modes))
    )


async def _read_request(context: Context) -> None:
    while isinstance(message := await context.read(), ProcessingRequest):
        if message.request_body.end_of_stream or message.HasField("request_trailers"):
            return


async def _was_sent(sending: asyncio.Future[None]) -> bool:
    await asyncio.wait([sending], timeout=_SENT_KNOWN_S)
    if not sending.done():
        sending.cancel()
        return False
    return not sending.cancelled() and sending.exception() is None


def _fast_headers(decision: Decision) -> tuple[tuple[str, str], ...]:
    headers = (
        *decision.set_headers,
        (names.POOL_HEADER, names.cluster_name(decision.pool)),
        (names.MAX_RETRIES, str(len(decision.addresses) - 1)),
    )
    if decision.body is None:
        return headers
    return (*headers, ("content-length", str(len(decision.body))))
