"""A verdict as a table and as a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.table import Table

from loadtests.lab.limits.judge import Fault, Verdict

_EXAMPLES: Final = 3


def table(verdict: Verdict) -> Table:
    """What was looked at, what was found, and whether that is right."""
    shown = Table("what", "found", "", show_edge=False)
    shown.columns[1].justify = "right"
    for what, found, examples in _rows(verdict):
        good = "ok" if not found else "WRONG"
        shown.add_row(what, f"{found:g}", "; ".join((good, *examples)))
    return shown


def _rows(verdict: Verdict) -> Iterator[tuple[str, float, Sequence[str]]]:
    for limit, beyond in verdict.overshoot.items():
        yield f"granted beyond {limit}", beyond, ()
    yield "tokens lost", verdict.lost_tokens, ()
    yield "tokens doubled", verdict.doubled_tokens, ()
    yield "429 without a reason", len(verdict.unjustified), _some(verdict.unjustified)
    yield "Retry-After that is untrue", len(verdict.untrue), _some(verdict.untrue)


def _some(faults: Sequence[Fault]) -> list[str]:
    return [f"{fault.what} (request {fault.id})" for fault in faults[:_EXAMPLES]]


def sentence(verdict: Verdict) -> str:
    """In a line."""
    counts = (
        f"{verdict.requests} requests, {verdict.admitted} admitted, {verdict.refused} refused,"
        f" {verdict.failed} failed"
    )
    if not verdict.admitted:
        return f"{counts}: nothing to judge"
    return f"{counts}: {'the limits hold' if verdict.ok else 'the limits do NOT hold'}"


def document(verdict: Verdict) -> dict[str, object]:
    """For ``--json``."""
    return {
        "ok": verdict.ok,
        "requests": verdict.requests,
        "admitted": verdict.admitted,
        "refused": verdict.refused,
        "failed": verdict.failed,
        "overshoot": verdict.overshoot,
        "lost_tokens": verdict.lost_tokens,
        "doubled_tokens": verdict.doubled_tokens,
        "unjustified_429": [_fault(fault) for fault in verdict.unjustified],
        "untrue_retry_after": [_fault(fault) for fault in verdict.untrue],
    }


def _fault(fault: Fault) -> dict[str, str]:
    return {"request_id": fault.id, "what": fault.what}
