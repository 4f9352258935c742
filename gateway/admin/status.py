"""The state of the gateway as plain values; /api/status shows them as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.control.decisions import DecisionsClient
from picker.admission.sight import PoolSight


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """An address that requests can be sent to, as the pickers see it."""

    address: str
    healthy: bool
    draining: bool = False
    reason: str = ""
    """Why it gets no requests, or gets some only for want of a better one; "" when all is well."""
    warning: str = ""
    """What is not known of it although it gets requests."""
    in_flight_requests: int = 0
    """Those of all pickers."""
    waiting_requests: float = 0.0
    """Requests in the engine's queue, by its last report."""
    running_requests: float = 0.0
    kv_usage: float = 0.0
    """0 to 1."""
    models: tuple[str, ...] = ()
    breaker: str = ""
    """For which models its circuit breaker is open, and why: for these it gets no requests while
    others can serve them. "" when it is closed."""
    cache: str = "approximate"
    """How its prefix cache is known: "exact", by its events; "exact, tokens asked", so too, but its
    engine makes other tokens of prompts than we do; "approximate", by what was sent there; "events
    missing", so too, although events have come before."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A process that a pool runs."""

    name: str
    state: str
    address: str = ""
    pid: int | None = None
    restarts: int = 0
    detail: str = ""
    """The last error, or what it waits for."""


@dataclass(frozen=True, slots=True)
class PredictionStatus:
    """How far predicted times of a model's requests were off of late: the median of
    |predicted - seen| / seen. None: nothing was predicted, or nothing has ended yet."""

    model: str
    ttft_error_median: float | None
    """Of requests whose first token took over 50 ms."""
    tpot_error_median: float | None


@dataclass(frozen=True, slots=True)
class ShadowStatus:
    """What has come of asking a pool's shadow policy, at all pickers since each began."""

    policy: str
    agreed: int
    differed: int
    nothing: int
    """It found no replica that fits."""
    failed: int
    skipped: int
    """It was not asked, because it is too slow."""
    last_failure: str = ""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool with what is in it."""

    name: str
    kind: str
    models: tuple[str, ...] = ()
    replicas: tuple[ReplicaStatus, ...] = ()
    endpoints: tuple[EndpointStatus, ...] = ()
    predictions: tuple[PredictionStatus, ...] = ()
    """Of models that the pool serves."""
    shadow: ShadowStatus | None = None


@dataclass(frozen=True, slots=True)
class PickerStatus:
    """A picker worker process."""

    name: str
    pid: int | None
    state: str
    config_version: int = 0
    """Version that it works with."""
    in_flight_requests: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class EnvoyStatus:
    """The Envoy process; ``state`` "disabled" when somebody else's gateway is used."""

    state: str
    pid: int | None = None
    address: str = ""
    """Where clients connect."""
    restarts: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RefusedConfig:
    """A change of the file that was refused."""

    at: datetime
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """The configuration in force, and the last one refused since it was accepted."""

    version: int
    accepted_at: datetime
    path: str
    refused: RefusedConfig | None = None


@dataclass(frozen=True, slots=True)
class BatchLaneStatus:
    """The process that serves files and batches."""

    state: str = "off"
    """``off``; ``idle``: nobody has used it yet; else the state of its process."""
    pid: int | None = None
    restarts: int = 0
    detail: str = ""
    """How it ended last, "" when it has not."""


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """The state of the whole gateway."""

    version: str
    started_at: datetime
    uptime_s: float
    not_ready: tuple[str, ...]
    """What is missing before requests can be served; empty: ready."""
    config: ConfigStatus
    envoy: EnvoyStatus
    pickers: tuple[PickerStatus, ...] = ()
    pools: tuple[PoolStatus, ...] = ()
    batches: BatchLaneStatus = BatchLaneStatus()


class UnknownEndpointError(LookupError):
    """No such pool, or no such endpoint in it; the text says which."""


class StatusSource(Protocol):
    """What the admin API needs of the supervisor. All are called in the event loop."""

    def status(self) -> GatewayStatus:
        """The state now."""
        ...

    def queues(self) -> Sequence[PoolSight]:
        """What waits now, of each pool that has a queue."""
        ...

    def config_document(self) -> Mapping[str, object]:
        """The accepted configuration with its defaults, ready for JSON, without secrets."""
        ...

    @property
    def decisions(self) -> DecisionsClient:
        """What the pickers remember of their decisions."""
        ...

    async def set_draining(self, pool: str, address: str, *, draining: bool) -> None:
        """Send an endpoint no new requests, or some again; raises UnknownEndpointError."""
        ...
