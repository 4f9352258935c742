"""The seam to other pickers: what each reports to the others, so that all know the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import numpy as np
import xxhash
from msgspec import Struct
from numpy.typing import NDArray

from picker.request.report import Report
from policies.flow.digest import QueueDigest
from policies.health.breaker import Verdict
from policies.routing.types import Floats


class Sent(Struct, frozen=True):
    """What a request leaves behind at the endpoint that it was sent to."""

    pool: str
    address: str
    chains: Sequence[Sequence[int]]
    """Block hashes of the prompt, one chain for each sequence."""
    adapter: str = ""
    """LoRA adapter asked for, "" for a base model."""
    session: str = ""
    """Key of the session that is now bound to the address, "" without one."""
    added: Sequence[int] = ()
    """Of each chain how many blocks at its end the request has added there; known once it was
    sent."""


EndpointKeys = NDArray[np.uint64]


@lru_cache(maxsize=1 << 16)
def endpoint_key(address: str) -> int:
    """What stands for an address among those of a pool where many are reported: 64 bits."""
    return xxhash.xxh3_64_intdigest(address.encode())


def endpoint_keys(addresses: Iterable[str]) -> EndpointKeys:
    """`endpoint_key` of each."""
    return np.array([endpoint_key(address) for address in addresses], np.uint64)


class Span(NamedTuple):
    """Keys of endpoints from ``first`` to ``last``, both among them."""

    first: int
    last: int


ALL: Final = Span(0, (1 << 64) - 1)


class Finding(NamedTuple):
    """What a worker has found of a replica's circuit breaker."""

    pool: str
    address: str
    model: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Loads:
    """What one picker has in flight in one pool."""

    pool: str
    endpoints: EndpointKeys
    """Shape (n,)."""
    rows: Floats
    """Of each endpoint, shape (n, 3): requests; uncached prompt tokens believed not to be prefilled
    yet; prompt and expected output tokens. Whole numbers."""
    complete: Span | None = None
    """The endpoints of these keys that are not among ``endpoints`` have nothing in flight. None:
    nothing is said of others."""


class Peers(Protocol):
    """Reports to the other pickers. Returns at once; a report may be lost."""

    def sent(self, sent: Sent) -> None:
        """This picker has sent a request."""

    def taken_back(self, sent: Sent) -> None:
        """A request of this picker has failed: what it alone left behind is to be forgotten."""

    def loads_changed(self) -> None:
        """Loads or breakers of this picker have changed: `PeerSink` has them."""

    def ended(self, report: Report) -> None:
        """The data plane reported the end of another picker's request to this one."""

    def lives(self, id: str, owner: str) -> None:  # noqa: A002 - the request's id
        """The data plane showed this one that a request of another picker goes on."""


class PeerSink(Protocol):
    """Takes what other pickers report, and gives what they are to know."""

    def loads(self, *, everything: bool = False) -> Iterable[Loads]:
        """Of this picker, by pool: those that changed since they were last asked for, or all."""
        ...

    def findings(self, *, everything: bool = False) -> Iterable[Finding]:
        """Of circuit breakers: those that are new since they were last asked for, or all that are
        not closed."""
        ...

    def peer_sent(self, requests: Iterable[Sent]) -> None:
        """Another picker has sent requests, in this order."""

    def peer_took_back(self, requests: Iterable[Sent]) -> None:
        """Requests of another picker have failed."""

    def peer_found(self, findings: Iterable[Finding]) -> None:
        """What another picker has found of circuit breakers."""

    def peer_loads(self, picker: str, loads: Loads) -> None:
        """What another picker has in flight on some endpoints now. Raises ValueError when that
        cannot be true."""

    def peer_ended(self, report: Report) -> None:
        """The end of a request of this picker, or of one that has died, was reported to another
        one."""

    def peer_lives(self, ids: Iterable[str]) -> None:
        """Another picker was shown that requests of this one go on."""


class QueueSink(Protocol):
    """The same for what waits."""

    def queues(
        self, *, everything: bool = False, part: bool = False
    ) -> Iterable[tuple[str, QueueDigest]]:
        """Of this picker, by pool: what has changed since it was last asked for; everything; or one
        part of everything in turn."""
        ...

    def peer_queue(self, picker: str, pool: str, digest: QueueDigest) -> None:
        """What another picker has waiting, and has served."""

    def peer_loads_changed(self, pool: str) -> None:
        """What other pickers have in flight in a pool has changed."""

    def peers_live(self, pickers: Iterable[str], interval_s: float) -> None:
        """These other pickers live, and hear within ``interval_s`` what is reported."""


class Alone:
    """No other pickers."""

    def sent(self, sent: Sent) -> None:
        """See `Peers`."""

    def taken_back(self, sent: Sent) -> None:
        """See `Peers`."""

    def loads_changed(self) -> None:
        """See `Peers`."""

    def ended(self, report: Report) -> None:
        """See `Peers`."""

    def lives(self, id: str, owner: str) -> None:  # noqa: A002 - the request's id
        """See `Peers`."""
