"""The seam to other pickers: what each reports to the others, so that all know the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from picker.request.report import Report


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request leaves behind at the endpoint that it was sent to."""

    pool: str
    address: str
    chains: Sequence[Sequence[int]]
    """Block hashes of the prompt, one chain for each sequence."""
    adapter: str = ""
    """LoRA adapter asked for, "" for a base model."""
    session: str = ""
    """Key of the session that is now bound to the address, "" without one."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one picker has in flight on one endpoint."""

    pool: str
    address: str
    requests: float
    prefill_tokens: float
    """Uncached prompt tokens believed not to be prefilled yet."""
    kv_tokens: float
    """Prompt and expected output tokens."""

    @property
    def empty(self) -> bool:
        """Nothing is in flight."""
        return self.requests <= 0


class Peers(Protocol):
    """Reports to the other pickers. Returns at once; a report may be lost."""

    def sent(self, sent: Sent) -> None:
        """This picker has sent a request."""

    def loads_changed(self) -> None:
        """Loads of this picker have changed: `PeerSink.loads` has them."""

    def ended(self, report: Report) -> None:
        """The data plane reported the end of another picker's request to this one."""


class PeerSink(Protocol):
    """Takes what other pickers report, and gives what they are to know."""

    def loads(self, *, everything: bool = False) -> Iterable[Load]:
        """Of this picker: those that changed since they were last asked for, or all."""
        ...

    def peer_sent(self, sent: Sent) -> None:
        """Another picker has sent a request."""

    def peer_load(self, picker: str, load: Load) -> None:
        """What another picker has in flight on an endpoint now."""

    def peer_ended(self, report: Report) -> None:
        """Another picker was told how a request of this one ended."""


class Alone:
    """No other pickers."""

    def sent(self, sent: Sent) -> None:
        """See `Peers`."""

    def loads_changed(self) -> None:
        """See `Peers`."""

    def ended(self, report: Report) -> None:
        """See `Peers`."""
