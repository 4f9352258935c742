"""The ext_proc service for somebody else's gateway: the Endpoint Picker protocol, one stream a
request, FULL_DUPLEX_STREAMED both ways. Our own Envoy has `picker.server.fast`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from picker import names
from picker.core import Picker
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

_REQUEST_COMES_S: Final = 0.2
"""A request that is refused for its modes is read for at most this time."""

Context = grpc.aio.ServicerContext[ProcessingRequest, bytes]


class ExternalProcessor:
    """Serves one stream a request. Other modes are refused: who shows us no responses would have
    to send us access logs."""

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
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
            if _is_duplex(first):
                await StandardExchange(self._picker, context, first).run()
            else:
                self._picker.refused_by_proxy(_refusal(first, self._picker.now()))
                await _refuse(first, context)
        finally:
            self.running -= 1


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
