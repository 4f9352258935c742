"""Whose a line of a batch is: the batch lane says so, and shows that it is the lane."""

from __future__ import annotations

from hmac import compare_digest
from urllib.parse import unquote

from msgspec import Struct

from gateway.batches.records import Owner
from picker import names
from picker.request.head import RequestHead


class BatchLines(Struct, frozen=True):
    """Reads the header of lines."""

    key: str
    """Of the lane of this run; "": there is none."""

    def owner_of(self, head: RequestHead) -> Owner | None:
        """Who made the batch; None: the request is no line of a batch, whatever it says."""
        shown, _, who = head.headers.get(names.BATCH_LINE, "").partition(";")
        if not self.key or not compare_digest(shown.encode(), self.key.encode()):
            return None
        parts = [unquote(part) for part in who.split(";")]
        return Owner(*parts) if len(parts) == 3 else None
