"""The ext_proc service: one stream a request, in one of two transports.

Fast path (our own Envoy): request BUFFERED, response not seen; the stream ends with the decision.
Standard path (Endpoint Picker protocol): FULL_DUPLEX_STREAMED both ways.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import grpc
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from picker import names
from picker.core import Picker
from picker.decision import Answer, Decision
from picker.server import wire
from picker.server.exchange import StandardExchange

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"

Context = grpc.aio.ServicerContext[ProcessingRequest, bytes]


class ExternalProcessor:
    """Serves both transports; ``duplex_by_default`` decides for a client that does not say."""

    def __init__(self, picker: Picker, *, duplex_by_default: bool) -> None:
        self._picker = picker
        self._duplex_by_default = duplex_by_default

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
        if self._is_duplex(first):
            await StandardExchange(self._picker, context, first).run()
        else:
            await self._buffered(first, context.read, context.write)

    def _is_duplex(self, first: ProcessingRequest) -> bool:
        if not first.HasField("protocol_config"):
            return self._duplex_by_default
        mode: int = first.protocol_config.request_body_mode
        duplex: int = ProcessingMode.FULL_DUPLEX_STREAMED
        return mode == duplex

    async def _buffered(
        self,
        first: ProcessingRequest,
        read: Callable[[], Awaitable[object]],
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        head = wire.request_head(first, self._picker.now())
        if first.request_headers.end_of_stream:
            outcome = await self._picker.decide(head, b"")
            reply = wire.on_headers
        else:
            await write(wire.CONTINUE_REQUEST_HEADERS)
            message = await read()
            if not isinstance(message, ProcessingRequest) or not message.HasField("request_body"):
                return
            outcome = await self._picker.decide(head, message.request_body.body)
            reply = wire.on_body
        if isinstance(outcome, Answer):
            await write(wire.immediate(outcome))
            return
        metadata = wire.decision_metadata(outcome, first.metadata_context, ours=True)
        try:
            await write(reply(outcome, _fast_headers(outcome), metadata))
        except BaseException:
            # Envoy never learned of the decision, so its access log will not report it.
            self._picker.abandon(outcome)
            raise


def _fast_headers(decision: Decision) -> tuple[tuple[str, str], ...]:
    headers = (
        *decision.set_headers,
        (names.POOL_HEADER, names.cluster_name(decision.pool)),
        (names.MAX_RETRIES, str(len(decision.addresses) - 1)),
    )
    if decision.body is None:
        return headers
    return (*headers, ("content-length", str(len(decision.body))))
