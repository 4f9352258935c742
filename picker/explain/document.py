"""A kept decision as a JSON document. docs/explain.md has its fields; they are part of the API."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

from picker.decisions.record import Record, Refusal
from picker.explain.words import why
from picker.flight.attempts import attempts
from picker.request.choice import Choice, LeftOut, Shadowed
from picker.request.report import Report
from policies.limits.prices import NOTHING

Document = dict[str, object]


def document(
    kept: Record | Refusal, wall_s: Callable[[float], float], *, picker: str, whole: bool
) -> Document:
    """``wall_s``: from the picker's clock to seconds since the epoch. ``picker``: its id. Not
    ``whole``: without what was weighed, for lists."""
    refusal, record = (kept, None) if isinstance(kept, Refusal) else (None, kept)
    labels = kept.labels
    first = record.choices[0] if record is not None else None
    answering = record.choices[-1] if record is not None else None
    report = record.report if record is not None else None
    found: Document = {
        "request_id": labels.request_id,
        "decision_id": kept.id,
        "picker": picker,
        "decided_at": _time(wall_s(kept.at_s)),
        "decision_ms": _ms(kept.decision_s),
        "state": kept.state,
        "tenant": labels.tenant,
        "key": labels.key,
        "user": labels.user,
        "path": labels.path,
        "model": labels.model,
        "served_model": record.served_model if record is not None else "",
        "adapter": record.adapter if record is not None else "",
        "pool": labels.pool,
        "streaming": record.streaming if record is not None else None,
        "prompt_tokens": round(record.prompt_tokens) if record is not None else None,
        "expected_output_tokens": round(record.output_tokens) if record is not None else None,
        "policy": answering.policy if answering is not None else None,
        "endpoint": answering.tried[0] if answering is not None else None,
        "predicted_ttft_ms": _ms(first.predicted_ttft_s) if first is not None else None,
        "predicted_tpot_ms": _ms(answering.predicted_tpot_s) if answering is not None else None,
        "predicted_cached_tokens": (
            _number(first.chosen.matched_tokens) if first is not None else None
        ),
        "refusal": _refusal(refusal, whole=whole) if refusal is not None else None,
        "result": (_result(record, report) if record is not None and report is not None else None),
    }
    if whole:
        found["choices"] = (
            [_choice(record.prompt_tokens, choice) for choice in record.choices] if record else []
        )
    return found


def _refusal(refusal: Refusal, *, whole: bool) -> Document:
    found: Document = {
        "status": refusal.status,
        "code": refusal.code,
        "message": refusal.message,
    }
    return found | _left_out(refusal.left_out) if whole else found


def _result(record: Record, report: Report) -> Document:
    usage, answering = record.usage or NOTHING, record.choices[-1]
    tpot_s = report.tpot_s
    tries = attempts(report, answering.tried, names_model=record.names_model)
    predicted = record.was_predicted
    return {
        "endpoint": report.address,
        "status": report.status,
        "ttft_ms": _ms(report.ttft_s),
        "tpot_ms": _ms(tpot_s),
        "duration_ms": _ms(report.duration_s),
        "ttft_error_ms": _off(report.ttft_s, record.choices[0].predicted_ttft_s, known=predicted),
        "tpot_error_ms": _off(tpot_s, answering.predicted_tpot_s, known=predicted),
        "input_tokens": report.input_tokens,
        "cached_tokens": report.cached_tokens,
        "output_tokens": report.output_tokens,
        "charged_input_tokens": usage.input_tokens if record.limited else None,
        "charged_output_tokens": usage.output_tokens if record.limited else None,
        "tries": [{"endpoint": one.address, "outcome": one.said} for one in tries],
    }


def _choice(prompt_tokens: float, choice: Choice) -> Document:
    rows = choice.rows()
    order = {address: place for place, address in enumerate(choice.tried, 1)}
    by_score = sorted(
        rows.items(), key=lambda item: (order.get(item[0], len(rows)), -item[1]["score"])
    )
    chosen = choice.chosen.endpoint
    found: Document = {
        "role": choice.role.value,
        "policy": choice.policy,
        "endpoint": choice.tried[0],
        "tried": list(choice.tried),
        "why": why(prompt_tokens, choice, rows),
        "session_endpoint": choice.session_endpoint or None,
        "chosen": {
            "waiting_requests": _number(chosen.waiting_requests),
            "running_requests": _number(chosen.running_requests),
            "kv_usage": _number(chosen.kv_usage, 4),
            "kv_capacity_tokens": _number(chosen.kv_capacity_tokens) or None,
            "foreign_requests": _number(chosen.foreign_requests),
            "in_flight_requests": _number(chosen.in_flight_requests),
            "in_flight_prefill_tokens": _number(chosen.in_flight_prefill_tokens),
            "in_flight_kv_tokens": _number(chosen.in_flight_kv_tokens),
        },
        "candidates_total": choice.candidates,
        "candidates": [
            _candidate(prompt_tokens, address, order.get(address), row) for address, row in by_score
        ],
    }
    found |= _left_out(choice.left_out)
    found["shadow"] = None if choice.shadow is None else _shadow(choice, choice.shadow)
    return found


def _candidate(
    prompt_tokens: float, address: str, order: int | None, row: dict[str, float]
) -> Document:
    matched = min(row["matched_tokens"], prompt_tokens) if row["matched_tokens"] > 0 else 0.0
    return {
        "endpoint": address,
        "order": order,
        "score": _number(row["score"], 6),
        "predicted_ttft_ms": _ms(row.get("predicted_ttft_s")),
        "predicted_tpot_ms": _ms(row.get("predicted_tpot_s")),
        "harm_ms": _ms(row.get("harm_s")),
        "matched_tokens": round(matched),
        "uncached_tokens": round(prompt_tokens) - round(matched),
        "backlog_tokens": _number(row["backlog_tokens"]),
        "in_flight_requests": _number(row["in_flight_requests"]),
        "waiting_requests": _number(row["waiting_requests"]),
    }


def _left_out(left_out: LeftOut | None) -> Document:
    replicas = left_out.replicas if left_out is not None else ()
    return {
        "left_out_total": left_out.total if left_out is not None else 0,
        "left_out": [
            {"endpoint": one.endpoint, "why": one.why.value, "reason": one.reason}
            for one in replicas
        ],
    }


def _shadow(choice: Choice, shadow: Shadowed) -> Document:
    return {
        "policy": shadow.policy,
        "endpoint": shadow.endpoint or None,
        "agrees": shadow.endpoint == choice.tried[0] if not shadow.failure else None,
        "predicted_ttft_ms": _ms(shadow.predicted_ttft_s),
        "predicted_tpot_ms": _ms(shadow.predicted_tpot_s),
        "failure": shadow.failure or None,
    }


def _off(seen_s: float | None, predicted_s: float | None, *, known: bool) -> float | None:
    """What was seen above what was predicted."""
    if seen_s is None or predicted_s is None or not known:
        return None
    return _ms(seen_s - predicted_s)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else _number(seconds * 1000, 3)


def _number(value: float, digits: int = 0) -> float | None:
    """Rounded; None for what JSON cannot say."""
    if not math.isfinite(value):
        return None
    return round(value, digits) if digits else round(value)


def _time(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")
