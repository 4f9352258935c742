"""What a pool is to the rest of the gateway, whatever its replicas run on."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.config.schema.pools import ProcessPool, SimulatedPool, StaticPool
from picker.state.spec import EndpointSpec

PoolConfig = StaticPool | SimulatedPool | ProcessPool

OnChange = Callable[[], None]
"""Called after each change of a pool's endpoints, in the event loop; must not raise."""


class ReplicaState(enum.StrEnum):
    """Where a replica is in its life, as far as its pool knows."""

    ACTIVE = "active"
    """An address that was given. The picker, not the pool, knows whether it is healthy."""
    UNRESOLVED = "unresolved"
    """A host name without an address."""
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    """Ended; will be started again."""
    DRAINING = "draining"
    """Finishes its requests, gets no new ones, then leaves."""
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """One replica, as its pool knows it."""

    name: str
    """``pool-index`` of a process, or the endpoint as configured."""
    state: ReplicaState
    address: str | None
    """``ip:port``; None as long as there is none."""
    pid: int | None = None
    restarts: int = 0
    last_error: str | None = None
    """Why it last ended or could not be resolved, with its last output."""


class Provider(Protocol):
    """A pool of replicas. Used from one event loop."""

    async def start(self) -> None:
        """Begin; does not wait until replicas are ready."""
        ...

    async def stop(self) -> None:
        """End everything the pool runs, without draining; harmless when called again."""
        ...

    def endpoints(self) -> tuple[EndpointSpec, ...]:
        """Where requests can go now, sorted by address; draining ones are still among them."""
        ...

    def reconfigure(self, config: PoolConfig) -> bool:
        """Go towards a new configuration in the background, draining what leaves. False, and
        nothing has changed: it is for another kind of pool, so another provider must be made."""
        ...

    def scale(self, replicas: int) -> bool:
        """Go towards that many replicas in the background. False: they are not ours to start."""
        ...

    async def leave(self) -> None:
        """Drain all endpoints and end what runs; return when nothing is left. When cancelled,
        `reconfigure` takes back what still drains."""
        ...

    def drained(self, address: str) -> None:
        """A draining endpoint has no request in flight any more. To be called only after every
        picker knows that it is draining. For any other address nothing happens."""
        ...

    def replicas(self) -> tuple[ReplicaRecord, ...]:
        """Every replica, also those that are no endpoints."""
        ...


MakeProvider = Callable[[PoolConfig, OnChange], Provider]
"""The provider that a configuration asks for, not started yet."""
