"""The whole configuration. Every key's description is the docstring under it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from gateway.config.checks.sections import cross_check
from gateway.config.schema.identity import Identity, Jwt, TrustedHeaders
from gateway.config.schema.limits import (
    Limit,
    Limits,
    OutputQuantile,
    Redis,
    RedisStore,
)
from gateway.config.schema.pools import (
    Pool,
    ProcessPool,
    SimulatedPool,
    StaticPool,
    UpstreamTls,
)
from gateway.config.schema.pricing import ModelPrice, Pricing, Weights
from gateway.config.schema.scheduling import (
    Policy,
    Profile,
    Scheduling,
    WeightedScorer,
)
from gateway.config.schema.secret import Secret
from gateway.config.schema.section import ConfigPath, Section, raise_faults
from gateway.config.schema.tenancy import Plan, Tenant, TenantKey
from gateway.config.schema.terms import (
    Count,
    IpAddress,
    ModelName,
    Name,
    Port,
    Seconds,
)

__all__ = [
    "Admin",
    "Config",
    "EnvoyProxy",
    "ExtProc",
    "Health",
    "Identity",
    "Jwt",
    "Limit",
    "Limits",
    "Listen",
    "Metrics",
    "ModelPrice",
    "ModelRule",
    "OutputQuantile",
    "Picker",
    "Plan",
    "Policy",
    "Pool",
    "Pricing",
    "ProcessPool",
    "Profile",
    "Redis",
    "RedisStore",
    "RequestLogFile",
    "Scheduling",
    "Scrape",
    "Secret",
    "ServerTls",
    "SimulatedPool",
    "StaticPool",
    "Target",
    "Telemetry",
    "Tenant",
    "TenantKey",
    "TrustedHeaders",
    "UpstreamTls",
    "WeightedScorer",
    "Weights",
    "schema_json",
]


class ServerTls(Section):
    """A certificate that a listener shows."""

    certificate: Secret
    """PEM certificate chain."""
    key: Secret
    """PEM private key."""


class Listen(Section):
    """Where clients connect."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on. 0.0.0.0: every interface."""
    port: Port = 8080
    """TCP port."""
    tls: ServerTls | None = None
    """TLS for clients. Null: plain HTTP."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 64 << 20
    """Longest request body, bytes. A longer one is answered with 413."""
    stream_idle_timeout_s: Seconds = 1800.0
    """A request on which nothing moves for this long, seconds, is ended. There is no limit on
    the whole length of a stream."""
    drain_timeout_s: Seconds = 30.0
    """When Penstock is told to stop, running requests have this long to finish, seconds."""


class Admin(Section):
    """The admin API: status, metrics, health. Keep it away from clients."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on. One that other machines reach needs `token`."""
    port: Port = 8090
    """TCP port."""
    token: Secret | None = None
    """What callers show in `Authorization: Bearer`, at least 16 characters. Null: nobody is asked,
    which is only for an address that no other machine reaches."""


class EnvoyProxy(Section):
    """The Envoy that Penstock runs."""

    enabled: bool = True
    """Run Envoy. false: only the picker runs, for somebody else's gateway."""
    concurrency: Count | None = None
    """Worker threads. Null: one for each core."""
    binary: ConfigPath | None = None
    """Envoy program. Null: the one installed with Penstock."""
    log_level: Literal["trace", "debug", "info", "warning", "error", "critical", "off"] = "warning"
    """Least severe messages that Envoy logs."""


def _tls_kind(value: object) -> str:
    return "<files>" if isinstance(value, dict | ServerTls) else "<word>"


class ExtProc(Section):
    """The picker's ext_proc server for somebody else's gateway (Endpoint Picker protocol)."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on."""
    port: Port | None = None
    """TCP port; the protocol's own is 9002. Null: none, only Penstock's Envoy is served."""
    tls: Annotated[
        Annotated[Literal["auto", "off"], Tag("<word>")] | Annotated[ServerTls, Tag("<files>")],
        Discriminator(_tls_kind),
    ] = "auto"
    """auto: plain on a loopback address, a self-signed certificate elsewhere. off: plain. Or
    `certificate` and `key`."""


class Health(Section):
    """The picker's gRPC health service."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on."""
    port: Port | None = None
    """TCP port; the Endpoint Picker protocol's own is 9003. Null: none."""


class Metrics(Section):
    """A Prometheus port beside the admin API, for scrapers that may not reach that."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on."""
    port: Port | None = None
    """TCP port; the Endpoint Picker protocol's own is 9090. Null: only the admin API has
    /metrics."""


class Scrape(Section):
    """Reading the load of replicas from their /metrics."""

    interval_s: Seconds = 0.25
    """Time between two reads of a replica that has requests, seconds."""
    idle_interval_s: Seconds = 1.0
    """Time between two reads of a replica without requests, seconds."""
    timeout_s: Seconds = 1.0
    """Longest time for one read, seconds."""
    stale_after_s: Seconds = 5.0
    """A replica whose last successful read is older than this, seconds, gets no requests."""


class Picker(Section):
    """The processes that decide which replica serves a request."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of picker processes. One decides some thousand requests per second."""
    failure_mode: Literal["closed", "open"] = "closed"
    """What Envoy does with a request when no picker answers: refuse it (closed), or send it to
    the least busy replica of the default pool (open)."""
    decision_timeout_s: Seconds = 10.0
    """Longest time that Envoy waits for a decision, seconds."""
    ext_proc: ExtProc = ExtProc()
    """ext_proc over TCP, for somebody else's gateway."""
    health: Health = Health()
    """gRPC health service."""
    metrics: Metrics = Metrics()
    """A second Prometheus port."""
    lease_s: Seconds = 3600.0
    """A request whose end was never reported is forgotten after this time, seconds. Longer than
    the longest request."""
    scrape: Scrape = Scrape()
    """Reading the load of replicas."""


class Target(Section):
    """What a model name leads to."""

    model: ModelName
    """Base model or adapter, as the replicas call it."""
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """Share of the requests, relative to the other targets' weights."""
    pool: Name | None = None
    """Pool to use. Null: any that serves the model."""


class ModelRule(Section):
    """A model name that clients may use, and what it leads to. Rules apply once: a target is
    what replicas serve, never another rule's name."""

    name: ModelName
    """Model name in the request, compared exactly. `*`: every request for which no other rule
    fits and whose model no pool serves, also one without a model."""
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    """One or several models; weights split the requests."""


class RequestLogFile(Section):
    """A file for the request log."""

    file: ConfigPath
    """File to append to, one JSON object a line; relative to the configuration file."""


def _log_kind(value: object) -> str:
    return "<file>" if isinstance(value, dict | RequestLogFile) else "<word>"


class Telemetry(Section):
    """Logs."""

    request_log: Annotated[
        Annotated[Literal["stdout", "none"], Tag("<word>")]
        | Annotated[RequestLogFile, Tag("<file>")],
        Discriminator(_log_kind),
    ] = "stdout"
    """One JSON line for each request: stdout, none, or `{file: PATH}`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages of Penstock's own log."""


class Config(Section):
    """Configuration of Penstock: one YAML file."""

    listen: Listen = Listen()
    """Where clients connect."""
    admin: Admin = Admin()
    """The admin API."""
    envoy: EnvoyProxy = EnvoyProxy()
    """The Envoy that Penstock runs."""
    picker: Picker = Picker()
    """The processes that decide."""
    scheduling: Scheduling = Scheduling()
    """How replicas are chosen."""
    pools: tuple[Pool, ...] = ()
    """Groups of replicas."""
    models: tuple[ModelRule, ...] = ()
    """Aliases and weighted rewrites of model names."""
    identity: Identity | None = None
    """How a request is told to be a tenant's. Null: everybody is let in, without limits and
    uncounted; or, with plans or tenants, API keys are asked for."""
    plans: tuple[Plan, ...] = ()
    """What tenants get that refer to them, such as gold and free."""
    tenants: tuple[Tenant, ...] = ()
    """Teams, customers or services, and their API keys. More can be made at run time, with
    `penstock tenants` or the admin API."""
    pricing: Pricing | None = None
    """Prices of models."""
    limits: Limits = Limits()
    """Where limits are counted and usage is kept."""
    telemetry: Telemetry = Telemetry()
    """Logs."""
    state_dir: ConfigPath | None = None
    """Folder for what must outlive a restart: the SQLite file `penstock.db` with tenants, keys and
    usage. Null: `penstock-state` beside the configuration file. Made when it is first needed."""
    run_dir: ConfigPath | None = None
    """Folder for sockets, Envoy's files and the logs of child processes. Null: a temporary one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        raise_faults("configuration", cross_check(self))
        return self

    @property
    def has_tenants(self) -> bool:
        """Whether requests are told apart by tenant. If not, everybody is anonymous and unlimited,
        nothing is recorded, and there is no state on disk."""
        return self.identity is not None or bool(self.plans or self.tenants or self.pricing)

    @property
    def identity_in_force(self) -> Identity:
        """`identity`, or what holds where it is not given: API keys alone. Only with
        `has_tenants`."""
        return self.identity or Identity()

    @property
    def state_file(self) -> Path:
        """The SQLite file. Raises LookupError when the configuration was not loaded from a file
        and names no folder."""
        if self.state_dir is None:
            raise LookupError("state_dir is not set, and there is no configuration file beside it")
        return self.state_dir / "penstock.db"

    def pool(self, name: str) -> StaticPool | SimulatedPool | ProcessPool | None:
        """The pool of that name."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def profile_of(self, pool: Pool) -> Profile:
        """The scheduling profile in force for a pool."""
        return self.scheduling.profiles[pool.profile or self.scheduling.default_profile]


def schema_json() -> str:
    """The JSON Schema (2020-12) of the configuration file, for editors."""
    schema = Config.model_json_schema()
    return json.dumps(
        {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema, indent=2
    )
