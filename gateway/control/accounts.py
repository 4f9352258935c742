"""How the supervisor asks the picker workers, which have the limit store, for their accounts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Final

import grpc
from msgspec.structs import asdict

from gateway.control.socket import SocketServer
from gateway.limits.accounts import AccountsSource, UnknownSubject
from gateway.limits.buckets import StoreUnavailable
from gateway.limits.usage import COUNTS, UsageRecord
from picker.wire import control_pb2
from policies.limits.plan import Subject
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Lifetime,
    Period,
    Rule,
    Standing,
    TokenBucket,
)

log = logging.getLogger(__name__)

SERVICE: Final = "penstock.control.v1.Accounts"
_LIMITS_S: Final = 2.0
_USAGE_S: Final = 60.0
_NOBODY: Final = "no picker runs"
_ROWS_AT_ONCE: Final = 500
"""Rows of a message. It stays far below gRPC's 4 MiB, and the worker serves requests in between."""
_SAME: Final = ("key", "user", "model", *COUNTS)
"""Fields that a row and its message both have."""


class AccountsUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """No worker could answer; the text says why."""


class AccountsServer(SocketServer):
    """The worker's end."""

    def __init__(self, source: AccountsSource) -> None:
        self._source = source
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
        super().__init__(
            grpc.method_handlers_generic_handler(SERVICE, {"Limits": limits, "Usage": usage})
        )

    async def _limits(
        self,
        request: control_pb2.LimitsRequest,
        context: grpc.aio.ServicerContext[control_pb2.LimitsRequest, control_pb2.LimitsAnswer],
    ) -> control_pb2.LimitsAnswer:
        subject = Subject(
            *(request.tenant, request.key, request.user, request.model, request.pool),
            *(request.session, request.agent),
        )
        try:
            standings = await self._source.standings(subject, request.key_id)
        except UnknownSubject as problem:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(problem))
        except StoreUnavailable as problem:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(problem))
        return control_pb2.LimitsAnswer(standings=[_from_standing(one) for one in standings])

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
                        tenant=tenant, rows=[_from_record(row) for row in rows]
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
        request = control_pb2.LimitsRequest(**asdict(subject), key_id=key_id)
        reason = _NOBODY
        for socket in self._sockets():
            try:
                async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                    call: grpc.aio.UnaryUnaryMultiCallable[
                        control_pb2.LimitsRequest, control_pb2.LimitsAnswer
                    ]
                    call = channel.unary_unary(
                        f"/{SERVICE}/Limits",
                        request_serializer=control_pb2.LimitsRequest.SerializeToString,
                        response_deserializer=control_pb2.LimitsAnswer.FromString,
                    )
                    answer = await call(request, timeout=_LIMITS_S)
                    return [_to_standing(one) for one in answer.standings]
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    raise UnknownSubject(error.details() or subject.tenant) from error
                reason = _why(socket, error)
        raise AccountsUnavailable(reason)

    async def usage(
        self, tenant: str | None, first: date, last: date
    ) -> AsyncIterator[tuple[str, UsageRecord]]:
        """Every row with its tenant; None: of all tenants. Raises AccountsUnavailable, also after
        some rows, which do not count then."""
        request = control_pb2.UsageRequest(
            tenant=tenant or "", first=first.isoformat(), last=last.isoformat()
        )
        reason, began = _NOBODY, False
        for socket in self._sockets():
            try:
                async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                    call: grpc.aio.UnaryStreamMultiCallable[
                        control_pb2.UsageRequest, control_pb2.UsageChunk
                    ]
                    call = channel.unary_stream(
                        f"/{SERVICE}/Usage",
                        request_serializer=control_pb2.UsageRequest.SerializeToString,
                        response_deserializer=control_pb2.UsageChunk.FromString,
                    )
                    async for chunk in call(request, timeout=_USAGE_S):
                        began = True
                        for row in chunk.rows:
                            yield chunk.tenant, _to_record(row)
                    return
            except grpc.aio.AioRpcError as error:
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


def _from_standing(standing: Standing) -> control_pb2.Standing:
    bucket = standing.bucket
    message = control_pb2.Standing(
        key=bucket.key,
        name=bucket.name,
        dimension=bucket.dimension.value,
        shadow=bucket.shadow,
        remaining=standing.remaining,
        reset_ms=standing.reset_ms,
    )
    match bucket.rule:
        case TokenBucket(capacity, refill, period_ms):
            message.token_bucket.capacity = capacity
            message.token_bucket.refill = refill
            message.token_bucket.period_ms = period_ms
        case CalendarWindow(limit, period, zone):
            message.calendar_window.limit = limit
            message.calendar_window.period = period.value
            message.calendar_window.zone = zone
        case Lifetime(limit, idle_ms):
            message.lifetime.limit = limit
            message.lifetime.idle_ms = idle_ms
        case Concurrency(limit):
            message.concurrency.limit = limit
    return message


def _to_standing(message: control_pb2.Standing) -> Standing:
    bucket = Bucket(
        key=message.key,
        dimension=Dimension(message.dimension),
        rule=_rule(message),
        name=message.name,
        shadow=message.shadow,
    )
    return Standing(bucket, bucket.limit, message.remaining, message.reset_ms)


def _rule(message: control_pb2.Standing) -> Rule:
    kind = message.WhichOneof("rule")
    if kind == "token_bucket":
        bucket = message.token_bucket
        return TokenBucket(bucket.capacity, bucket.refill, bucket.period_ms)
    if kind == "calendar_window":
        window = message.calendar_window
        return CalendarWindow(window.limit, Period(window.period), window.zone)
    if kind == "lifetime":
        return Lifetime(message.lifetime.limit, message.lifetime.idle_ms)
    return Concurrency(message.concurrency.limit)


def _from_record(record: UsageRecord) -> control_pb2.UsageRow:
    rest = {name: getattr(record, name) for name in _SAME}
    return control_pb2.UsageRow(day=record.day.isoformat(), **rest)


def _to_record(message: control_pb2.UsageRow) -> UsageRecord:
    rest = {name: getattr(message, name) for name in _SAME}
    return UsageRecord(day=date.fromisoformat(message.day), **rest)
