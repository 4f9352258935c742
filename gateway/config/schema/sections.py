"""The tree of the configuration file: all sections and their keys, and the sections that have no
module of their own. Every key's description is the docstring under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, Tag

from gateway.config.schema.batches import Batches
from gateway.config.schema.cors import Cors
from gateway.config.schema.counting import Limits
from gateway.config.schema.fault import Location
from gateway.config.schema.flow import Flow
from gateway.config.schema.identity import Identity
from gateway.config.schema.models import ModelRule
from gateway.config.schema.picker import PickerSection
from gateway.config.schema.pools import Pool
from gateway.config.schema.pricing import Pricing
from gateway.config.schema.scheduling import Profile, Scheduling
from gateway.config.schema.secret import Secret
from gateway.config.schema.section import ConfigPath, Section, by_shape
from gateway.config.schema.tenancy import Plan, Tenant
from gateway.config.schema.terms import Count, IpAddress, OpenPath, Port, Seconds
from gateway.config.schema.tls import ServerTls

BATCH_PATHS: Final = ("/v1/files", "/v1/batches")
"""Beginnings of the paths of files and batches."""
BATCH_PATHS_BELOW: Final = tuple(f"{path}/" for path in BATCH_PATHS)


class RequestCaps(Section):
    """How much of each thing one request may have. A request with more is refused with 400, or with
    413 for its JSON values, in words that name the cap."""

    prompts: Count = 8_192
    """Prompts, inputs, documents or pairs of texts."""
    messages: Count = 20_000
    """Messages of a conversation, or input items of the Responses API."""
    tools: Count = 4_096
    """Definitions of tools or functions."""
    media: Count = 1_024
    """Images, audio clips and the like."""
    values: Count = 2_000_000
    """JSON values. Each of them takes up to 300 bytes of memory while the body is read."""


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
    caps: RequestCaps = RequestCaps()
    """How much of each thing one request may have."""
    upload_idle_timeout_s: Seconds = 60.0
    """A request of whose body nothing arrives for this long, seconds, is ended with 408. A slow
    upload that goes on is not. (With `picker.failure_mode: open`, `stream_idle_timeout_s` holds
    instead.)"""
    upload_timeout_s: Seconds = 3600.0
    """A request that has not arrived whole after this long, seconds, is ended with 408."""
    stream_idle_timeout_s: Seconds = 1800.0
    """A request that has arrived and on which nothing moves for this long, seconds, is ended with
    504, or breaks off when it is being answered. There is no limit on the whole length of a
    stream."""
    drain_timeout_s: Seconds = 30.0
    """When Penstock is asked to stop, running requests have this long to finish, seconds."""
    shutdown_delay_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """From being asked to stop until new requests are refused, seconds. In this time /readyz and
    the health service already say that Penstock is not ready, so that load balancers send it
    nothing more; what they still send is served. Set it longer than they take to notice."""


class Admin(Section):
    """The admin API: status, metrics, health. Keep it away from clients."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on. An address that other machines reach needs `token`."""
    port: Port = 8090
    """TCP port."""
    token: Secret | None = None
    """What callers send in `Authorization: Bearer`, at least 16 characters. Null: no token is
    asked for, which is only possible on an address that no other machine reaches."""


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


class RequestLogFile(Section):
    """A file for the request log."""

    file: ConfigPath
    """File to append to, one JSON object a line; relative to the configuration file."""


class Telemetry(Section):
    """Logs."""

    request_log: Annotated[
        Annotated[Literal["stdout", "none"], Tag("<word>")]
        | Annotated[RequestLogFile, Tag("<file>")],
        by_shape(RequestLogFile, "<file>", "<word>"),
    ] = "stdout"
    """One JSON line for each request: stdout, none, or `{file: PATH}`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages of Penstock's own log."""


class Sections(Section):
    """Each section is sound by itself; whether they fit together is not checked here."""

    listen: Listen = Listen()
    """Where clients connect."""
    admin: Admin = Admin()
    """The admin API."""
    envoy: EnvoyProxy = EnvoyProxy()
    """The Envoy that Penstock runs."""
    picker: PickerSection = PickerSection()
    """The processes that decide."""
    scheduling: Scheduling = Scheduling()
    """How replicas are chosen."""
    flow: Flow = Flow()
    """How requests wait for a pool that could not begin them."""
    batches: Batches = Batches()
    """Files and batches of OpenAI's API."""
    pools: tuple[Pool, ...] = ()
    """Groups of replicas."""
    cors: Cors | None = Cors()
    """Which web pages may call the API. Null: Penstock adds no CORS headers and answers no
    preflight; those of the replicas pass. Somebody else's gateway has its own setting."""
    passthrough: tuple[OpenPath, ...] = ()
    """Paths that clients may call beside the inference APIs of the pools' engines, such as
    `/v1/files`, or `/v1/files/*` for that with everything below. They are open for every method
    and go to the replicas as they are, also to an engine's control paths if these are named or
    stand below. Every other path is answered with 404."""
    models: tuple[ModelRule, ...] = ()
    """Aliases and weighted rewrites of model names."""
    identity: Identity | None = None
    """How Penstock learns which tenant a request is from. Null: everybody is let in, without
    limits and uncounted; or, with plans or tenants, API keys are asked for."""
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

    @property
    def has_tenants(self) -> bool:
        """Whether each request belongs to a tenant. If not, everybody is anonymous and unlimited,
        nothing is recorded, and there is no state on disk but files and batches."""
        return self.identity is not None or bool(self.plans or self.tenants or self.pricing)

    @property
    def identity_in_force(self) -> Identity:
        """`identity`, or what holds where it is not given: API keys alone. Only with
        `has_tenants`."""
        return self.identity or Identity()

    @property
    def undecided_idle_s(self) -> float:
        """After so long without movement Envoy ends a request that arrives or is being decided,
        seconds."""
        return max(self.listen.upload_idle_timeout_s, self.picker.decision_timeout_s + 1.0)

    @property
    def longest_wait_s(self) -> float:
        """How long a request may wait for its pool, seconds."""
        if not self.envoy.enabled:
            return self.flow.longest_ttl_s
        return min(self.flow.longest_ttl_s, self.undecided_idle_s - 1.0)

    @property
    def handed_over(self) -> tuple[str, ...]:
        """Beginnings of the paths that the batch lane serves; (): there is none. It takes an Envoy
        of ours, and paths that an operator has not opened to the replicas."""
        opened = any(
            f"{path}/".startswith(BATCH_PATHS_BELOW)
            or (path.endswith("/*") and BATCH_PATHS_BELOW[0].startswith(path[:-1]))
            for path in self.passthrough
        )
        if not self.batches.enabled or not self.envoy.enabled or opened:
            return ()
        return BATCH_PATHS

    @property
    def batches_folder(self) -> Path:
        """Of the batch lane. Raises LookupError as `state_file`."""
        return self.batches.folder or self.state_file.parent / "batches"

    @property
    def state_file(self) -> Path:
        """The SQLite file. Raises LookupError when the configuration was not loaded from a file
        and names no folder."""
        if self.state_dir is None:
            raise LookupError("state_dir is not set, and there is no configuration file beside it")
        return self.state_dir / "penstock.db"

    def profile_of(self, pool: Pool) -> Profile:
        """The scheduling profile in force for a pool."""
        return self.scheduling.profiles[pool.profile or self.scheduling.default_profile]

    def listeners(self) -> Iterator[tuple[Location, str, int]]:
        """The ports of Penstock's own parts: place of the section, IP address, TCP port."""
        if self.envoy.enabled:
            yield ("listen",), self.listen.address, self.listen.port
        yield ("admin",), self.admin.address, self.admin.port
        picker = self.picker
        for key, optional in (
            ("ext_proc", picker.ext_proc),
            ("health", picker.health),
            ("metrics", picker.metrics),
        ):
            if optional.port is not None:
                yield ("picker", key), optional.address, optional.port
