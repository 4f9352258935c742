"""Reading replicas together with the other workers of a host: each replica is read by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import xxhash

from picker.signals.sink import ScrapeSink
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel


class Sharing(ScrapeSink, Protocol):
    """The other workers of a host. As a sink, it takes what this worker has read, for them."""

    @property
    def name(self) -> str:
        """This worker's own."""
        ...

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the workers that live, with this one's; another object when they change."""
        ...

    def listen(self, sink: ScrapeSink) -> None:
        """Give ``sink`` what the others read from now on."""


class Unshared:
    """There are no other workers."""

    name = "alone"
    members = (name,)

    def listen(self, sink: ScrapeSink) -> None:
        """See `Sharing`."""

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        """See `ScrapeSink`."""

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        """See `ScrapeSink`."""

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        """See `ScrapeSink`."""

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        """See `ScrapeSink`."""


def reader_of(pool: str, address: str, members: Sequence[str]) -> str:
    """The member that reads an endpoint: rendezvous hashing (Thaler and Ravishankar, 1998), so
    that a member that comes or goes moves only the endpoints that it reads itself."""
    key = xxhash.xxh3_64_intdigest(f"{pool}\0{address}".encode())
    return max(members, key=lambda member: xxhash.xxh3_64_intdigest(member.encode(), key))
