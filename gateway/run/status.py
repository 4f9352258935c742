"""What the admin API shows of a running supervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from gateway.admin.status import (
    ConfigStatus,
    EndpointStatus,
    EnvoyStatus,
    GatewayStatus,
    PickerStatus,
    PoolStatus,
    PredictionStatus,
    RefusedConfig,
    ReplicaStatus,
    ShadowStatus,
    UnknownEndpointError,
)
from gateway.children.child import Child, ChildState
from gateway.config.config import Config
from gateway.config.schema.pricing import Pricing
from gateway.config.schema.upstream import without_key
from gateway.control.accounts import AccountsClient
from gateway.control.decisions import DecisionsClient
from gateway.control.queues import together
from gateway.control.server import WorkerReport
from gateway.pools.provider import ReplicaRecord
from gateway.run.supervisor import Supervisor
from gateway.telemetry.predictions import median
from gateway.tenancy.tenant_admin import TenantAdmin
from picker.admission.sight import PoolSight
from picker.state.endpoints import NO_ANSWER_YET
from picker.state.spec import EndpointKey, EndpointSpec
from picker.wire import control_pb2

_NEVER_READ: Final = "no picker has read it yet"
UNSEEN: Final = frozenset({_NEVER_READ, NO_ANSWER_YET})
"""Reasons of endpoints of which it is not known yet whether they can be used."""


class SupervisorStatus:
    """A gateway.admin.status.StatusSource and a gateway.admin.tenants.TenantSource."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        run = supervisor.run_dir
        self._accounts = AccountsClient(lambda: self._sockets(run.accounts_socket))
        self._decisions = DecisionsClient(lambda: self._sockets(run.decisions_socket))

    def status(self) -> GatewayStatus:
        """The state now."""
        supervisor = self._supervisor
        envoy, pickers, pools = self._envoy(), self._pickers(), self._pools()
        return GatewayStatus(
            version=version("penstock"),
            started_at=_time(supervisor.started_s),
            uptime_s=round(datetime.now(UTC).timestamp() - supervisor.started_s, 1),
            not_ready=tuple(_missing(envoy, pickers, pools, stopping=supervisor.stopping)),
            config=self._config(),
            envoy=envoy,
            pickers=pickers,
            pools=pools,
            batches=self._supervisor.batches.status(),
        )

    def queues(self) -> list[PoolSight]:
        """What waits now, of each pool that has a queue."""
        reports = self._supervisor.control.reports.values()
        found = together(queue for report in reports for queue in report.queues)
        return [found[pool.name] for pool in self._supervisor.config.pools if pool.name in found]

    def config_document(self) -> Mapping[str, object]:
        """The accepted configuration."""
        return config_document(self._supervisor.config)

    async def set_draining(self, pool: str, address: str, *, draining: bool) -> None:
        """Send an endpoint no new requests, or some again; raises UnknownEndpointError."""
        specs = self._supervisor.members.endpoints().get(pool, [])
        if not specs and all(pool != one.name for one in self._supervisor.config.pools):
            raise UnknownEndpointError(f"there is no pool {pool!r}")
        if all(spec.address != address for spec in specs):
            raise UnknownEndpointError(f"pool {pool!r} has no endpoint {address!r}")
        self._supervisor.hold(pool, address, held=draining)

    def _config(self) -> ConfigStatus:
        in_force, refused = self._supervisor.in_force, None
        if in_force.refused is not None:
            problems = tuple(str(problem) for problem in in_force.refused.problems)
            refused = RefusedConfig(_time(in_force.refused_s), problems)
        return ConfigStatus(
            version=in_force.version,
            accepted_at=_time(in_force.accepted_s),
            path=str(self._supervisor.path),
            refused=refused,
        )

    def _envoy(self) -> EnvoyStatus:
        envoy, listen = self._supervisor.envoy, self._supervisor.config.listen
        if not self._supervisor.config.envoy.enabled:
            return EnvoyStatus(state="disabled")
        if envoy is None:
            return EnvoyStatus(state=ChildState.IDLE.value)
        return EnvoyStatus(
            state=envoy.child.state.value,
            pid=envoy.child.pid,
            address=f"{listen.address}:{listen.port}",
            restarts=envoy.child.restarts,
            detail="; ".join(envoy.refused) or _ending(envoy.child),
        )

    def _pickers(self) -> tuple[PickerStatus, ...]:
        found = []
        for child in self._supervisor.pickers.children:
            report = self._supervisor.control.reports.get(child.spec.name) or WorkerReport()
            found.append(
                PickerStatus(
                    name=child.spec.name,
                    pid=child.pid,
                    state=child.state.value,
                    config_version=self._supervisor.in_force.version_at(report.applied_version),
                    in_flight_requests=sum(
                        one.in_flight_requests for one in report.endpoints.values()
                    ),
                    restarts=child.restarts,
                )
            )
        return tuple(found)

    def _pools(self) -> tuple[PoolStatus, ...]:
        members, replicas = self._supervisor.members.endpoints(), self._supervisor.fleet.replicas()
        found = []
        for pool in self._supervisor.config.pools:
            endpoints = tuple(
                _endpoint(spec, self._reports_on((pool.name, spec.address)))
                for spec in members.get(pool.name, ())
            )
            found.append(
                PoolStatus(
                    name=pool.name,
                    kind=pool.type,
                    models=tuple(sorted({m for one in endpoints for m in one.models})),
                    replicas=tuple(_replica(one) for one in replicas.get(pool.name, ())),
                    endpoints=endpoints,
                    predictions=self._predictions(pool.name),
                    shadow=self._shadow(pool.name),
                )
            )
        return tuple(found)

    def _predictions(self, pool: str) -> tuple[PredictionStatus, ...]:
        reports = self._supervisor.control.reports.values()
        found = [
            one for report in reports for (of, _), one in report.predictions.items() if of == pool
        ]
        return predictions_of(found)

    def _shadow(self, pool: str) -> ShadowStatus | None:
        reports = self._supervisor.control.reports.values()
        return shadow_of([one for report in reports for one in report.shadows if one.pool == pool])

    def _reports_on(self, endpoint: EndpointKey) -> list[control_pb2.EndpointReport]:
        """One of each picker that knows the endpoint."""
        reports = self._supervisor.control.reports.values()
        return [one.endpoints[endpoint] for one in reports if endpoint in one.endpoints]

    @property
    def tenants(self) -> TenantAdmin | None:
        """None: the configuration has no tenants."""
        supervisor = self._supervisor
        return supervisor.tenant_admin if supervisor.config.has_tenants else None

    @property
    def accounts(self) -> AccountsClient:
        """Of the pickers that run."""
        return self._accounts

    @property
    def currency(self) -> str:
        """Of the price table."""
        return (self._supervisor.config.pricing or Pricing()).currency

    @property
    def decisions(self) -> DecisionsClient:
        """What the pickers remember of their decisions."""
        return self._decisions

    def _sockets(self, of: Callable[[int], Path]) -> list[Path]:
        return [
            of(index)
            for index, child in enumerate(self._supervisor.pickers.children)
            if child.state is ChildState.READY
        ]


def config_document(config: Config) -> dict[str, object]:
    """A configuration as JSON; secrets are shown as references, hashes of keys are left out."""
    document = config.model_dump(mode="json")
    for tenant in document["tenants"]:
        for key in tenant["keys"]:
            if isinstance(key["sha256"], str):
                key["sha256"] = "<sha256>"
    for pool in document["pools"]:
        if "command" in pool:
            pool["command"] = without_key(pool["command"])
    return document


def admin_token(config: Config) -> str | None:
    """The admin API's token, as it is now."""
    token = config.admin.token
    return None if token is None else token.reveal()


def _endpoint(spec: EndpointSpec, seen: list[control_pb2.EndpointReport]) -> EndpointStatus:
    """One endpoint. Each worker counts its own requests there, and those that a dead one has left
    behind: for a while after a crash there seem to be more."""
    if not seen:
        return EndpointStatus(spec.address, False, spec.draining, _NEVER_READ)
    latest = seen[0]
    return EndpointStatus(
        address=spec.address,
        healthy=any(one.healthy for one in seen),
        draining=spec.draining,
        reason=next((one.problem for one in seen if one.problem), ""),
        warning=next((one.warning for one in seen if one.warning), ""),
        in_flight_requests=sum(one.in_flight_requests for one in seen),
        waiting_requests=latest.waiting_requests,
        running_requests=latest.running_requests,
        kv_usage=latest.kv_usage,
        models=tuple(latest.models),
        breaker=next((one.breaker for one in seen if one.breaker), ""),
        cache=_cache([one.cache for one in seen]),
    )


def predictions_of(
    found: Sequence[control_pb2.PredictionErrors],
) -> tuple[PredictionStatus, ...]:
    """By model, what all workers have found together."""
    return tuple(
        PredictionStatus(
            model,
            median(_sum(one.ttft_counts for one in found if one.model == model)),
            median(_sum(one.tpot_counts for one in found if one.model == model)),
        )
        for model in sorted({one.model for one in found})
    )


def shadow_of(found: Sequence[control_pb2.ShadowReport]) -> ShadowStatus | None:
    """What all workers have seen of a pool's shadow together; None: it has none."""
    if not found:
        return None
    return ShadowStatus(
        policy=found[0].policy,
        agreed=sum(one.agreed for one in found),
        differed=sum(one.differed for one in found),
        nothing=sum(one.nothing for one in found),
        failed=sum(one.failed for one in found),
        skipped=sum(one.skipped for one in found),
        last_failure=next((one.last_failure for one in found if one.last_failure), ""),
    )


def _sum(counts: Iterable[Sequence[float]]) -> list[float]:
    return [sum(column) for column in zip(*counts, strict=True)]


def _cache(known: list[str]) -> str:
    """As the picker that knows least sees it."""
    if all(one in ("events", "asked") for one in known):
        return "exact, tokens asked" if "asked" in known else "exact"
    return "events missing" if "missing" in known else "approximate"


def _replica(one: ReplicaRecord) -> ReplicaStatus:
    return ReplicaStatus(
        name=one.name,
        state=one.state.value,
        address=one.address or "",
        pid=one.pid,
        restarts=one.restarts,
        detail=one.last_error or "",
    )


def _missing(
    envoy: EnvoyStatus,
    pickers: tuple[PickerStatus, ...],
    pools: tuple[PoolStatus, ...],
    *,
    stopping: bool,
) -> list[str]:
    missing = []
    if stopping:
        missing.append("Penstock is shutting down")
    if envoy.state not in ("ready", "disabled"):
        missing.append(f"envoy is {envoy.state}")
    if not any(picker.state == "ready" for picker in pickers):
        missing.append("no picker is ready")
    if not any(endpoint.healthy for pool in pools for endpoint in pool.endpoints):
        missing += ["no replica can take requests", *unusable(pools)]
    return missing


def unusable(pools: Iterable[PoolStatus]) -> list[str]:
    """Every replica that cannot take requests, and why, a line for each."""
    found = []
    for pool in pools:
        if not pool.endpoints and not pool.replicas:
            found.append(f"pool {pool.name}: it has no replicas")
        known = {endpoint.address for endpoint in pool.endpoints}
        for replica in pool.replicas:
            if replica.address not in known:
                detail = f": {replica.detail}" if replica.detail else ""
                found.append(f"pool {pool.name}: {replica.name} is {replica.state}{detail}")
        found += [
            f"pool {pool.name}: {endpoint.address}: {endpoint.reason}"
            for endpoint in pool.endpoints
            if not endpoint.healthy and not endpoint.draining
        ]
    return found


def _ending(child: Child) -> str:
    return "" if child.last_exit is None else str(child.last_exit)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
