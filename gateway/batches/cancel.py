"""Cancelling a batch: by its tenant, or by an operator."""

from __future__ import annotations

from typing import Final

from gateway.batches.problems import Refusal, no_such
from gateway.batches.records import BatchRecord, Status
from gateway.batches.store import BatchStore

_OPEN: Final = frozenset({Status.VALIDATING, Status.IN_PROGRESS})


async def cancelled(store: BatchStore, id_: str, now_s: float) -> BatchRecord:
    """Have a batch cancelled; the dispatcher ends it. Raises Refusal: 404, and 409 for one that is
    over."""

    def change(found: BatchRecord) -> BatchRecord:
        if found.status in _OPEN:
            return found.at(Status.CANCELLING, int(now_s))
        return found

    found = await store.change(id_, change)
    if found is None:
        no_such("batch", id_)
    if found.status not in (Status.CANCELLING, Status.CANCELLED):
        message = f"A batch that is {found.status.value} cannot be cancelled."
        raise Refusal(409, "batch_is_over", message)
    return found
