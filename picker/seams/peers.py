"""The seam to other pickers: what each tells the others, so that all know the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from picker.request.report import Report


@dataclass(frozen=True, slots=True)
class PeerDispatch:
    """A request that one picker has sent, as the others need to know it."""

    id: str
    pool: str
    address: str
    prompt_tokens: float
    uncached_tokens: float
    output_tokens: float
    chains: Sequence[list[int]]
    """Block hashes of the prompt, one chain a sequence."""
    adapter: str = ""
    session: str = ""
    """Key of the session that is now bound to the address, "" without one."""


class Peers(Protocol):
    """Tells other pickers what this one did."""

    def dispatched(self, sent: PeerDispatch) -> None: ...

    def finished(self, report: Report) -> None: ...


class Alone:
    """No other pickers."""

    def dispatched(self, sent: PeerDispatch) -> None:
        return

    def finished(self, report: Report) -> None:
        return
