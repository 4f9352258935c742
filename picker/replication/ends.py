"""Reports of ends, between the picker that was told and the one that decided the request."""

from __future__ import annotations

from picker.request.report import Ending, LastTry, Report
from picker.wire import state_pb2


def pack(report: Report) -> state_pb2.Ended:
    """As a message; its ticket and its labels stay here."""
    return state_pb2.Ended(
        id=report.id,
        owner=report.owner,
        address=report.address,
        status=report.status,
        reason=report.reason,
        input_tokens=report.input_tokens,
        output_tokens=report.output_tokens,
        cached_tokens=report.cached_tokens,
        streamed_events=report.streamed_events,
        ttft_s=report.ttft_s,
        duration_s=report.duration_s,
        reasoning_tokens=report.reasoning_tokens,
        upstream_failed=report.upstream_failed,
        tries=report.tries or (),
        tries_known=report.tries is not None,
        last_try=report.last_try,
        code=report.code,
    )


def unpack(message: state_pb2.Ended) -> Report:
    """Raises ValueError for a reason that is none."""
    has = message.HasField
    return Report(
        id=message.id,
        owner=message.owner,
        address=message.address,
        status=message.status,
        reason=Ending(message.reason),
        input_tokens=message.input_tokens if has("input_tokens") else None,
        output_tokens=message.output_tokens if has("output_tokens") else None,
        cached_tokens=message.cached_tokens if has("cached_tokens") else None,
        streamed_events=message.streamed_events,
        ttft_s=message.ttft_s if has("ttft_s") else None,
        duration_s=message.duration_s,
        reasoning_tokens=message.reasoning_tokens if has("reasoning_tokens") else None,
        upstream_failed=message.upstream_failed,
        tries=tuple(message.tries) if message.tries_known else None,
        last_try=LastTry(message.last_try) if message.last_try else LastTry.ANSWERED,
        code=message.code,
    )
