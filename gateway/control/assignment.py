"""What picker workers work by, and what each reader of it has not read yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from picker.state.spec import EndpointChanges, EndpointSpec, changes_between


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is to work by: configuration and endpoints as far as they have changed,
    everything else as it is now."""

    version: int = 0
    """Grows with each change."""
    configuration: bytes | None = field(default=None, repr=False)
    """The accepted configuration as JSON, secrets resolved; None: unchanged."""
    endpoints: tuple[EndpointChanges, ...] = ()
    """At most one entry for a pool."""
    whole: bool = False
    """There are no other endpoints than the upserts."""
    proxy_generation: int = 0
    """Grows when our Envoy has ended: what was in flight then has ended unreported."""
    registry_generation: int = 0
    """Grows when a tenant or key was written."""
    crash_generation: int = 0
    """Grows when a picker has died: ends that were on their way to it are lost."""
    live_pickers: frozenset[str] = frozenset()
    """Ids of all pickers that run."""


class Board:
    """The assignment in force, whole. The supervisor changes it, each worker has a copy that
    follows; readers get what is new to them, several changes as one."""

    def __init__(self) -> None:
        self.latest = Assignment()
        """Without configuration and endpoints; `put` changes it, nobody else."""
        self.configuration: bytes | None = None
        """None: there has been none; `put` changes it, nobody else."""
        self._endpoints: dict[str, dict[str, EndpointSpec]] = {}
        self._readers: set[Reader] = set()

    @property
    def endpoints(self) -> Mapping[str, Mapping[str, EndpointSpec]]:
        """By pool and address. A pool without endpoints is not there."""
        return self._endpoints

    def put(self, assignment: Assignment) -> None:
        """Bring an assignment into force."""
        self.latest = replace(assignment, configuration=None, endpoints=(), whole=False)
        configured = assignment.configuration not in (None, self.configuration)
        if configured:
            self.configuration = assignment.configuration
        changes = self._whole(assignment) if assignment.whole else assignment.endpoints
        for change in changes:
            endpoints = self._endpoints.setdefault(change.pool, {})
            change.apply_to(endpoints)
            if not endpoints:
                del self._endpoints[change.pool]
        for reader in self._readers:
            reader.note(changes, configured=configured)

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A reader to which all is new."""
        reader = Reader(self)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def part(self, pool: str, addresses: Iterable[str]) -> EndpointChanges:
        """What has become of these endpoints."""
        specs = self._endpoints.get(pool, {})
        return EndpointChanges(
            pool,
            tuple(specs[address] for address in addresses if address in specs),
            tuple(address for address in addresses if address not in specs),
        )

    def _whole(self, assignment: Assignment) -> tuple[EndpointChanges, ...]:
        wanted = {change.pool: change.upserts for change in assignment.endpoints}
        return tuple(
            changes_between(pool, self._endpoints.get(pool, {}), wanted.get(pool, ()))
            for pool in (*wanted, *(self._endpoints.keys() - wanted.keys()))
        )


class Reader:
    """Knows which parts of a board its owner has not read."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._whole = True
        self._configured = True
        self._touched = {pool: dict.fromkeys(specs) for pool, specs in board.endpoints.items()}
        """By pool: addresses, in the order in which they were touched."""
        self._news = asyncio.Event()

    def note(self, changes: Iterable[EndpointChanges], *, configured: bool) -> None:
        """The board has changed."""
        self._configured |= configured
        for change in filter(None, changes):
            addresses = (*change.deletes, *(spec.address for spec in change.upserts))
            self._touched.setdefault(change.pool, {}).update(dict.fromkeys(addresses))
        self._news.set()

    async def news(self) -> None:
        """Return when the board has changed since `read`."""
        await self._news.wait()

    def read(self) -> Assignment:
        """What is new since the last call, the first time everything."""
        assignment = replace(
            self._board.latest,
            configuration=self._board.configuration if self._configured else None,
            endpoints=tuple(self._board.part(*one) for one in self._touched.items()),
            whole=self._whole,
        )
        self._whole, self._configured, self._touched = False, False, {}
        self._news.clear()
        return assignment
