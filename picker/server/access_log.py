"""Envoy's gRPC access log: how each request of the fast path ended, and which go on."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import grpc
from envoy.config.core.v3.address_pb2 import Address
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value
from msgspec.structs import replace

from picker import names
from picker.core import Picker
from picker.request.caller import ANONYMOUS
from picker.request.labels import RequestLabels
from picker.request.report import Ending, LastTry, Report
from picker.seams.observer import Answered, Rejected
from picker.server.refusals import code_of, code_of_status
from picker.server.response import answered
from picker.server.usage import is_possible, produced

log = logging.getLogger(__name__)

FLUSH_S: Final = 0.05
"""Envoy sends the entries that it has collected this often, when there are any."""
BUFFER_BYTES: Final = 65536
"""It sends them at once when they are so large."""
_SILENT_S: Final = 6 * FLUSH_S
_ERRORS: Final = 400
"""Status codes from here on."""
SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"

_REFUSED: Final = "upstream_connection_failure"
_UPSTREAM_FAILED: Final = frozenset(
    {
        _REFUSED,
        "upstream_connection_termination",
        "upstream_remote_reset",
        "upstream_protocol_error",
    }
)
_TIMED_OUT: Final = frozenset(
    {
        "upstream_request_timeout",
        "upstream_max_stream_duration_reached",
        "duration_timeout",
        "stream_idle_timeout",
    }
)
_CLIENT_LEFT: Final = frozenset({"downstream_connection_termination", "downstream_remote_reset"})

_AT_ONCE: Final = 8
"""So many entries are taken without a pause: a message may have hundreds, and decisions wait
meanwhile."""


class AccessLogs:
    """Receives the log stream of every Envoy worker and hands each end of a request on, and each
    sign of life."""

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
        self._open = 0
        self._last_s = time.monotonic()
        self.failed_entries = 0

    @property
    def may_have_more(self) -> bool:
        """Entries may be on their way: some stream is open, and not silent. They may be ends of
        requests that other pickers decided."""
        return self._open > 0 and time.monotonic() < self._last_s + _SILENT_S

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC handler to add to a server. Messages are read by us: a broken one that gRPC
        could not read would end the stream, and lose what else is on its way."""
        method: grpc.RpcMethodHandler[bytes, bytes]
        method = grpc.stream_unary_rpc_method_handler(self._receive)
        return grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": method})

    async def _receive(
        self,
        messages: AsyncIterator[bytes],
        _: grpc.aio.ServicerContext[bytes, bytes],
    ) -> bytes:
        self._open += 1
        self._last_s = time.monotonic()
        try:
            async for message in messages:
                self._last_s = time.monotonic()
                await self._read(message)
                if self._picker.draining and len(message) < BUFFER_BYTES // 2:
                    break  # Envoy goes on with another picker; nothing follows for `FLUSH_S`
        finally:
            self._open -= 1
        return b""

    async def _read(self, message: bytes) -> None:
        try:
            entries = StreamAccessLogsMessage.FromString(message).http_logs.log_entry
        except DecodeError:
            self.failed_entries += 1
            log.exception("an access log message of %d bytes could not be read", len(message))
            return
        rest = iter(entries)
        try:
            for number, entry in enumerate(rest, 1):
                self._take(entry)
                if number % _AT_ONCE == 0 and number < len(entries):
                    await asyncio.sleep(0)
        finally:
            for entry in rest:  # the stream ends now: no end of a request is to be lost
                self._take(entry)

    def _take(self, entry: HTTPAccessLogEntry) -> None:
        try:
            if entry.common_properties.access_log_type == AccessLogType.DownstreamPeriodic:
                sign = read_sign(entry)
                if sign is not None:
                    self._picker.lives(sign.id, owner=sign.owner)
                return
            report = read_entry(entry)
            if report is not None:
                if report.owner != self._picker.id:
                    report = replace(report, labels=_labels(entry))
                self._picker.complete(report)
            handed = read_handed_over(entry)
            if handed is not None:
                self._picker.handed_over(handed)
                return
            refusal = read_refusal(entry)
            if refusal is not None:
                self._picker.refused_by_proxy(refusal)
        except Exception:  # one bad entry must not lose the others of its message
            self.failed_entries += 1
            log.exception("an access log entry could not be used")


class Sign(NamedTuple):
    """A request is under way."""

    id: str
    owner: str
    """Id of the picker that decided it."""


def read_sign(entry: HTTPAccessLogEntry) -> Sign | None:
    """What a periodic entry says: None before the request is decided, and of what is not ours."""
    metadata = entry.common_properties.metadata.filter_metadata
    if names.PENSTOCK_NAMESPACE not in metadata:
        return None
    decision = metadata[names.PENSTOCK_NAMESPACE].fields
    if "id" not in decision:
        return None
    return Sign(decision["id"].string_value, decision["picker"].string_value)


def read_handed_over(entry: HTTPAccessLogEntry) -> Answered | Rejected | None:
    """A request that another process of this gateway has answered; else None."""
    metadata = entry.common_properties.metadata.filter_metadata
    if names.PENSTOCK_NAMESPACE not in metadata:
        return None
    ours = metadata[names.PENSTOCK_NAMESPACE].fields
    if names.HANDED_OVER not in ours:
        return None
    labels = RequestLabels(
        request_id=entry.request.request_id,
        tenant=ours[names.HANDED_OVER].string_value,
        model="",
        pool="",
        path=entry.request.path.partition("?")[0],
    )
    status = entry.response.response_code.value
    if 0 < status < _ERRORS:
        return Answered(labels, status, decision_s=0.0)
    reason = code_of_status(status) if status else "client_aborted"
    return Rejected(labels, status, reason, decision_s=0.0)


def read_refusal(entry: HTTPAccessLogEntry) -> Rejected | None:
    """A request that Envoy refused itself before any picker had to decide it; else None. What it
    answers well, such as a preflight of a browser, is no refusal."""
    if 0 < entry.response.response_code.value < _ERRORS:
        return None
    details = entry.response.response_code_details
    metadata = entry.common_properties.metadata.filter_metadata
    ours = metadata[names.PENSTOCK_NAMESPACE].fields if names.PENSTOCK_NAMESPACE in metadata else ()
    if "id" in ours or names.ASKED in ours or names.ANSWER_DETAILS in details:
        return None
    status = entry.response.response_code.value
    return Rejected(_labels(entry), status, _code(status, details), decision_s=0.0)


def _labels(entry: HTTPAccessLogEntry) -> RequestLabels:
    """Without what only the picker knows."""
    pool = entry.common_properties.upstream_cluster
    return RequestLabels(
        request_id=entry.request.request_id,
        tenant=ANONYMOUS,
        model="",
        pool=pool.removeprefix(names.cluster_name("")) if _is_pool(pool) else "",
        path=entry.request.path.partition("?")[0] or entry.request.authority,
    )


def _is_pool(cluster: str) -> bool:
    return cluster.startswith(names.cluster_name(""))


def _code(status: int, details: str) -> str:
    """Why a request has ended that was not decided."""
    return code_of(details) if status else str(Ending.CLIENT_ABORTED)


def read_entry(entry: HTTPAccessLogEntry) -> Report | None:
    """The end of a request that was decided, or was being decided when its client left; None for
    what never got that far, and for what the picker answered itself."""
    common = entry.common_properties
    metadata = common.metadata.filter_metadata
    if names.PENSTOCK_NAMESPACE not in metadata:
        return None
    decision = metadata[names.PENSTOCK_NAMESPACE].fields
    key = "id" if "id" in decision else names.ASKED
    if key not in decision or names.ANSWER_DETAILS in entry.response.response_code_details:
        return None
    seen = metadata[names.LUA_NAMESPACE].fields if names.LUA_NAMESPACE in metadata else {}
    streaming = "progress" in seen
    # With how many events there were when it was reported, where it is a stream.
    usage = _counts(seen["usage"].struct_value.fields) if "usage" in seen else {}
    duration_s = _seconds(common.time_to_last_downstream_tx_byte)
    if duration_s == 0:
        duration_s = _seconds(common.duration)
    status = entry.response.response_code.value
    flags = {flag.name for flag, _ in common.response_flags.ListFields()}
    failed = not _UPSTREAM_FAILED.isdisjoint(flags)
    first_byte = seen["first_byte_us"].string_value if "first_byte_us" in seen else ""
    ttft_s = None
    if first_byte.isdecimal():
        started_us = common.start_time.ToMicroseconds()
        ttft_s = max(0.0, (int(first_byte) - started_us) / 1e6)
    elif status == 200 and not failed:
        ttft_s = _seconds(common.time_to_first_upstream_rx_byte) or None
    tries, last_try = _tries(metadata, flags)
    if last_try is LastTry.ANSWERED and "blames_request" in seen:
        last_try = LastTry.BLAMED
    streamed = 0
    if streaming:
        sent_bytes = entry.response.response_body_bytes
        streamed = streamed_events(seen["progress"].struct_value.fields, sent_bytes)
    came = streamed > 0 or "output" in usage
    if not streaming and not came:
        came = entry.response.response_body_bytes > 0 or status != 200
    reason = answered(_reason(status, flags, failed=failed), failed="failed" in seen, came=came)
    return Report(
        id=decision[key].string_value,
        owner=decision["picker"].string_value,
        address=_address(common.upstream_remote_address),
        status=status,
        reason=reason,
        input_tokens=usage.get("input"),
        output_tokens=produced(
            usage.get("output"),
            streamed,
            whole=reason is Ending.OK,
            later=streamed - usage.get("events", streamed),
        ),
        cached_tokens=usage.get("cached"),
        streamed_events=streamed,
        ttft_s=ttft_s,
        duration_s=duration_s,
        reasoning_tokens=usage.get("reasoning"),
        ticket=decision[names.TICKET].string_value if names.TICKET in decision else "",
        upstream_failed=failed and last_try is not LastTry.NONE,
        tries=tries,
        last_try=last_try,
        code="" if key == "id" else _code(status, entry.response.response_code_details),
    )


def _seconds(duration: Duration) -> float:
    return (duration.seconds * 1_000_000_000 + duration.nanos) / 1e9


def _tries(
    metadata: Mapping[str, Struct], flags: AbstractSet[str]
) -> tuple[tuple[str, ...], LastTry]:
    """How the tries before the last one ended, and the last one, as far as its status does not say
    so. ``flags``: those of the response that are set."""
    noted = metadata[names.TRIES_NAMESPACE].fields if names.TRIES_NAMESPACE in metadata else {}
    tries = tuple(noted["tries"].string_value.split()) if "tries" in noted else ()
    if "given_up" in noted:
        return tries, LastTry.NONE
    if _REFUSED in flags:
        return tries, LastTry.REFUSED
    if not _UPSTREAM_FAILED.isdisjoint(flags):
        return tries, LastTry.RESET
    if not _TIMED_OUT.isdisjoint(flags):
        return tries, LastTry.TIMEOUT
    return tries, LastTry.ANSWERED


def streamed_events(progress: Mapping[str, Value], sent_bytes: int) -> int:
    """Events with output that a stream had when so much of it was sent. The last note of how far it
    had come says what to expect of the bytes after it; Lua writes another where that is wrong, and
    computes it as we do (``expected_events`` in ``filters.lua``)."""
    noted, noted_bytes = _count(progress["events"]), _count(progress["bytes"])
    if noted is None or noted_bytes is None:
        return 0
    later = max(0, sent_bytes - noted_bytes) * progress["rate"].number_value
    return noted + math.floor(later + 0.5)


def _counts(fields: Mapping[str, Value]) -> dict[str, int]:
    counts = {}
    for key in fields:  # a map's items() takes three times as long
        count = _count(fields[key])
        if count is not None:
            counts[key] = count
    return counts


def _count(value: Value) -> int | None:
    """None for what a broken replica may report."""
    usable = value.HasField("number_value") and is_possible(value.number_value)
    return int(value.number_value) if usable else None


def _address(remote: Address) -> str:
    socket = remote.socket_address
    if not socket.address:
        return ""
    host = f"[{socket.address}]" if ":" in socket.address else socket.address
    return f"{host}:{socket.port_value}"


def _reason(status: int, flags: AbstractSet[str], *, failed: bool) -> Ending:
    if not _CLIENT_LEFT.isdisjoint(flags):
        return Ending.CLIENT_ABORTED
    if failed:
        return Ending.UPSTREAM_ERROR
    return Ending.OK if 0 < status < 400 else Ending.HTTP_ERROR
