"""How the supervisor asks the picker workers, which have the limit store, for their accounts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

from gateway.control import accounts_wire
from gateway.limits.accounts import AccountsSource, UnknownSubject
from gateway.limits.buckets import StoreUnavailable
from gateway.limits.usage import UsageRecord
from picker.wire import control_pb2
from policies.limits.plan import Subject
from policies.limits.types import Standing

log = logging.getLogger(__name__)

SERVICE: Final = "penstock.control.v1.Accounts"
_LIMITS_S: Final = 2.0
_USAGE_S: Final = 60.0
_NOBODY: Final = "no picker runs"
_ROWS_AT_ONCE: Final = 500
"""Rows of a message. It stays far below gRPC's 4 MiB, and the worker serves requests in between."""

Answer = TypeVar("Answer", bound=Message)


class AccountsUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """No worker could answer; the text says why."""


class AccountsServer:
    """The worker's end."""

    def __init__(self, source: AccountsSource) -> None:
        self._source = source
        self._server = grpc.aio.server()

    async def start(self, socket: Path) -> None:
        """Listen on a unix socket."""
        limits: grpc.RpcMethodHandler[control_pb2.LimitsRequest, control_pb2.LimitsAnswer]
        limits = grpc.unary_unary_rpc_method_handler(
            self._limits,
            request_deserializer=control_pb2.LimitsRequest.FromString,
            response_serializer=control_pb2.LimitsAnswer.SerializeToString,
        )
        usage: grpc.RpcMethodHandler[control_pb2.UsageRequest, control_pb2.UsageChunk]
        usage = grpc.unary_stream_rpc_method_handler(
            self._usage,
            request_deserializer=control_pb2.UsageRequest.FromString,
            response_serializer=control_pb2.UsageChunk.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(SERVICE, {"Limits": limits, "Usage": usage})
        self._server.add_generic_rpc_handlers((handler,))
        socket.unlink(missing_ok=True)  # noqa: ASYNC240 - once, in our own folder
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening, and remove the socket."""
        await self._server.stop(None)

    async def _limits(
        self,
        request: control_pb2.LimitsRequest,
        context: grpc.aio.ServicerContext[control_pb2.LimitsRequest, control_pb2.LimitsAnswer],
    ) -> control_pb2.LimitsAnswer:
        subject = Subject(request.tenant, request.key, request.user, request.model, request.pool)
        try:
            standings = await self._source.standings(subject, request.key_id)
        except UnknownSubject as problem:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(problem))
        except StoreUnavailable as problem:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(problem))
        return control_pb2.LimitsAnswer(
            standings=[accounts_wire.from_standing(one) for one in standings]
        )

    async def _usage(
        self,
        request: control_pb2.UsageRequest,
        context: grpc.aio.ServicerContext[control_pb2.UsageRequest, control_pb2.UsageChunk],
    ) -> AsyncIterator[control_pb2.UsageChunk]:
        first, last = date.fromisoformat(request.first), date.fromisoformat(request.last)
        try:
            async for tenant, records in self._source.usage(request.tenant or None, first, last):
                for start in range(0, len(records), _ROWS_AT_ONCE):
                    rows = records[start : start + _ROWS_AT_ONCE]
                    yield control_pb2.UsageChunk(
                        tenant=tenant, rows=[accounts_wire.from_record(row) for row in rows]
                    )
        except StoreUnavailable as problem:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(problem))


class AccountsClient:
    """The supervisor's end: asks one worker, and the next one when it cannot answer."""

    def __init__(self, sockets: Callable[[], Sequence[Path]]) -> None:
        """``sockets``: of the workers that run now, in the order in which to ask them."""
        self._sockets = sockets

    async def limits(self, subject: Subject, key_id: str) -> list[Standing]:
        """See `AccountsSource.standings`. Raises UnknownSubject and AccountsUnavailable."""
        request = control_pb2.LimitsRequest(
            tenant=subject.tenant,
            key=subject.key,
            user=subject.user,
            model=subject.model,
            pool=subject.pool,
            key_id=key_id,
        )
        answers = self._ask("Limits", request, control_pb2.LimitsAnswer, _LIMITS_S)
        return [accounts_wire.to_standing(o) async for answer in answers for o in answer.standings]

    async def usage(
        self, tenant: str | None, first: date, last: date
    ) -> AsyncIterator[tuple[str, UsageRecord]]:
        """Every row with its tenant; None: of all tenants. Raises AccountsUnavailable, also after
        some rows, which do not count then."""
        request = control_pb2.UsageRequest(
            tenant=tenant or "", first=first.isoformat(), last=last.isoformat()
        )
        async for chunk in self._ask("Usage", request, control_pb2.UsageChunk, _USAGE_S):
            for row in chunk.rows:
                yield chunk.tenant, accounts_wire.to_record(row)

    async def _ask(
        self, method: str, request: Message, answer: type[Answer], timeout_s: float
    ) -> AsyncIterator[Answer]:
        """The answers of the first worker that gives one. Raises UnknownSubject and
        AccountsUnavailable, also after some answers."""
        reason, began = _NOBODY, False
        for socket in self._sockets():
            try:
                async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                    call: grpc.aio.UnaryStreamMultiCallable[Message, Answer]
                    call = channel.unary_stream(
                        f"/{SERVICE}/{method}",
                        request_serializer=type(request).SerializeToString,
                        response_deserializer=answer.FromString,
                    )
                    async for one in call(request, timeout=timeout_s):
                        began = True
                        yield one
                    return
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    raise UnknownSubject(error.details() or "there is no such tenant") from error
                reason = _why(socket, error)
                if began:
                    break
        raise AccountsUnavailable(reason)


def _why(socket: Path, error: grpc.aio.AioRpcError) -> str:
    details = error.details() or error.code().name
    log.warning("%s cannot answer about limits and usage: %s", socket.stem, details)
    if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
        return f"the limit store does not answer: {details}"
    return f"{socket.stem} does not answer: {details}"
