"""Envoy's gRPC access log: how each request of the fast path ended."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Final

import grpc
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry, ResponseFlags
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.struct_pb2 import Struct

from picker import names
from picker.completion import Report
from picker.core import Picker

log = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"

_UPSTREAM_FAILED: Final = (
    "upstream_connection_failure",
    "upstream_connection_termination",
    "upstream_remote_reset",
    "upstream_retry_limit_exceeded",
    "upstream_protocol_error",
)


class AccessLogs:
    """Receives the log stream of every Envoy worker and hands each end of a request on."""

    def __init__(self, picker: Picker) -> None:
        self._picker = picker

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC handler to add to a server."""
        method: grpc.RpcMethodHandler[StreamAccessLogsMessage, bytes]
        method = grpc.stream_unary_rpc_method_handler(
            self._receive, request_deserializer=StreamAccessLogsMessage.FromString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": method})

    async def _receive(
        self,
        messages: AsyncIterator[StreamAccessLogsMessage],
        _: grpc.aio.ServicerContext[StreamAccessLogsMessage, bytes],
    ) -> bytes:
        async for message in messages:
            for entry in message.http_logs.log_entry:
                try:
                    report = read_entry(entry)
                except ValueError:
                    log.exception("an access log entry could not be read")
                    continue
                if report is not None:
                    self._picker.complete(report)
        return b""


def read_entry(entry: HTTPAccessLogEntry) -> Report | None:
    """The end of a decided request; None for requests that never got a decision."""
    common = entry.common_properties
    metadata = common.metadata.filter_metadata
    if names.PENSTOCK_NAMESPACE not in metadata:
        return None
    decision = metadata[names.PENSTOCK_NAMESPACE].fields
    if "id" not in decision:
        return None
    usage = _numbers(metadata, names.USAGE_NAMESPACE)
    seen = metadata[names.LUA_NAMESPACE].fields if names.LUA_NAMESPACE in metadata else {}
    duration_s = common.time_to_last_downstream_tx_byte.ToNanoseconds() / 1e9
    if duration_s == 0:
        duration_s = common.duration.ToNanoseconds() / 1e9
    status = entry.response.response_code.value
    flags = common.response_flags
    failed = any(getattr(flags, name) for name in _UPSTREAM_FAILED)
    started_us = common.start_time.ToMicroseconds()
    ttft_s = None
    if "first_byte_us" in seen:
        ttft_s = max(0.0, (int(seen["first_byte_us"].string_value) - started_us) / 1e6)
    elif status == 200 and not failed:
        ttft_s = common.time_to_first_upstream_rx_byte.ToNanoseconds() / 1e9 or None
    return Report(
        id=decision["id"].string_value,
        owner=decision["picker"].string_value,
        address=_address(common.upstream_remote_address),
        status=status,
        reason=_reason(status, flags, failed=failed),
        input_tokens=usage.get("input"),
        output_tokens=usage.get("output"),
        cached_tokens=usage.get("cached"),
        streamed_events=int(seen["events"].number_value) if "events" in seen else 0,
        ttft_s=ttft_s,
        duration_s=duration_s,
        upstream_failed=failed,
    )


def _numbers(metadata: dict[str, Struct], namespace: str) -> dict[str, int]:
    if namespace not in metadata:
        return {}
    fields = metadata[namespace].fields
    return {key: int(fields[key].number_value) for key in fields}


def _address(remote: object) -> str:
    socket = remote.socket_address  # type: ignore[attr-defined]
    if not socket.address:
        return ""
    host = f"[{socket.address}]" if ":" in socket.address else socket.address
    return f"{host}:{socket.port_value}"


def _reason(status: int, flags: ResponseFlags, *, failed: bool) -> str:
    if flags.downstream_connection_termination or flags.downstream_remote_reset:
        return "client_aborted"
    if failed:
        return "upstream_error"
    return "ok" if 0 < status < 400 else "http_error"
