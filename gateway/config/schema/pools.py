"""Pools: the groups of replicas that requests are routed to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from gateway.config.schema.fault import Fault, repeats
from gateway.config.schema.secret import Secret, TextOrSecret
from gateway.config.schema.section import ConfigPath, Section
from gateway.config.schema.terms import (
    Count,
    EngineProfile,
    HostPort,
    HttpPath,
    IpAddress,
    ModelName,
    Name,
    Port,
    Seconds,
)
from gateway.config.schema.tls import UpstreamTls
from gateway.config.schema.upstream import Upstream, UpstreamHeaders, key_in_command

_SECRET_NAME: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$", re.IGNORECASE)

_VLLM_KEY: Final = "VLLM_API_KEY"


class KvEvents(Section):
    """Where the replicas publish what their prefix caches hold: vLLM's `--kv-events-config`.
    Replicas whose events come are routed to by what they really hold, the others by what was sent
    there."""

    enabled: bool = True
    """Listen to events. A replica that publishes none costs each worker an attempt to connect a
    minute."""
    port: Port = 5557
    """Port of `endpoint`, on the replica's host; vLLM's default. Without one given here, it is
    tried where a replica has a private address for itself: in a pod, for instance."""
    replay_port: Port | None = 5558
    """Port of `replay_endpoint`, where missed events are asked for. Null: there is none, and what a
    replica held before a gap or before Penstock was started is unknown."""
    topic: str = ""
    """Take only topics that begin with this text."""
    ranks: Annotated[int, Field(ge=1, le=1024)] = 1
    """Data-parallel ranks behind each address. vLLM lets rank i publish at both ports + i."""


class _AnyPool(Section):
    name: Name
    """Name of the pool, unique. It names the Envoy cluster and labels metrics."""
    profile: Name | None = None
    """Scheduling profile of this pool. Null: `scheduling.default_profile`."""
    shadow: Name | None = None
    """Scheduling profile that is asked about each request beside `profile`. Nothing is sent to what
    it chooses: `penstock explain` and metrics show what it would have done. Null: none."""
    models: tuple[ModelName, ...] = ()
    """Base models that the replicas serve. This makes them known before the first replica is up
    (503 instead of 404), and stands for the list of a replica whose /v1/models cannot be read:
    else Penstock reads there what is really served."""
    engine: Literal["auto", "vllm", "sglang", "trtllm", "openai"] = "auto"
    """Inference engine, which decides what clients may call and the names of its metrics. auto:
    recognised by its metrics, and clients may call what any engine has. openai: any server with
    OpenAI's API; no metrics are read, requests in flight decide."""
    default: bool = False
    """This pool takes the requests that name no model (pass-through paths). At most one pool."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Share of this pool in the requests for a model that several pools serve, of the sum of their
    weights. A pool whose replicas cannot serve the model now leaves its share to the others; one of
    weight 0 serves only when no other can."""
    queue: bool = True
    """Requests that the replicas could not begin at once wait in Penstock, in a fair order: see
    [flow](#flow). false: they go to a replica in any case, and wait there."""
    kv_events: KvEvents = KvEvents()
    """Exact knowledge of the replicas' prefix caches."""
    drain_timeout_s: Seconds = 600.0
    """Longest time that a replica being removed may go on serving its running requests, seconds."""

    def faults(self) -> Iterator[Fault]:
        """The models."""
        yield from _repeated("models", self.models)

    @property
    def example_model(self) -> str | None:
        """A base model that the replicas serve; None: none is declared."""
        return self.models[0] if self.models else None

    @property
    def upstream_tls(self) -> UpstreamTls | None:
        """TLS to the replicas; None: plain HTTP."""
        return None

    @property
    def upstream_headers(self) -> UpstreamHeaders:
        """What every request to the replicas carries. Holds secrets."""
        return ()

    @property
    def known_endpoints(self) -> tuple[str, ...]:
        """`host:port` of the replicas that stand in the configuration."""
        return ()


class StaticPool(_AnyPool):
    """Replicas that somebody else runs, by address."""

    type: Literal["static"]
    """Kind of pool."""
    endpoints: tuple[HostPort, ...]
    """`host:port` of each replica. A host name is resolved again and again; each of its
    addresses becomes an endpoint."""
    resolve_interval_s: Seconds = 30.0
    """Time between two resolutions of the host names, seconds."""
    tls: UpstreamTls | None = None
    """TLS to the replicas. Null: plain HTTP."""
    upstream: Upstream = Upstream()
    """What requests to the replicas carry: a key, a host, headers."""

    def faults(self) -> Iterator[Fault]:
        """The models and the endpoints."""
        yield from super().faults()
        yield from _repeated("endpoints", self.endpoints)

    @property
    def upstream_tls(self) -> UpstreamTls | None:
        """TLS to the replicas; None: plain HTTP."""
        return self.tls

    @property
    def upstream_headers(self) -> UpstreamHeaders:
        """What every request to the replicas carries. Holds secrets."""
        return self.upstream.request_headers()

    @property
    def known_endpoints(self) -> tuple[str, ...]:
        """`host:port` of the replicas."""
        return self.endpoints


class Restart(Section):
    """How a replica that ended is started again: exponential backoff with jitter."""

    initial_backoff_s: Seconds = 1.0
    """Wait before the first restart, seconds; doubled at each further one."""
    max_backoff_s: Seconds = 60.0
    """Longest wait, seconds."""
    stable_after_s: Seconds = 60.0
    """A replica that was ready this long, seconds, starts again with the initial wait."""

    def faults(self) -> Iterator[Fault]:
        """The order of the waits."""
        if self.max_backoff_s < self.initial_backoff_s:
            least = f"at least initial_backoff_s, {self.initial_backoff_s:g}"
            yield Fault(("max_backoff_s",), least)


class Ready(Section):
    """When a replica that was started takes requests."""

    path: HttpPath = "/health"
    """HTTP path that answers 200 as soon as the replica is ready."""
    timeout_s: Seconds = 600.0
    """A replica that is not ready within this time, seconds, is stopped and started again."""
    interval_s: Seconds = 0.5
    """Time between two tries, seconds."""


class Stop(Section):
    """How a replica is stopped, after it has drained."""

    grace_s: Seconds = 30.0
    """Time between SIGTERM and SIGKILL, seconds."""


class SimulatedPool(_AnyPool):
    """Simulated vLLM replicas, for trying things out without a GPU."""

    type: Literal["simulated"]
    """Kind of pool."""
    replicas: Annotated[int, Field(ge=0, le=256)] = 3
    """Number of replicas; each is a process."""
    model: ModelName = "simulated"
    """Name of the base model that they serve."""
    adapters: tuple[ModelName, ...] = ()
    """LoRA adapters that every replica serves."""
    max_loras: Annotated[int, Field(ge=0)] | None = None
    """Adapters that one replica can run at the same time. Null: 1 with adapters, else 0."""
    engine_profile: EngineProfile = "qwen3-8b-tp1-h100"
    """Speed and memory of a replica: a built-in profile (`penstock lab profiles` lists them), or a
    file that `penstock lab fit` wrote, relative to the configuration file."""
    num_blocks: Count | None = None
    """KV blocks of one replica. Null: what the profile's memory holds."""
    block_size: Count = 16
    """Tokens in one KV block."""
    max_num_seqs: Count = 256
    """Requests that one replica runs at the same time; more wait in its queue."""
    max_num_batched_tokens: Count = 8192
    """Tokens that one replica computes in one step."""
    max_model_len: Count | None = None
    """Longest context, tokens (prompt and output). Null: what the KV blocks hold."""
    time_scale: Annotated[float, Field(ge=0)] = 1.0
    """Real seconds for each simulated one. 0: answers come without waiting."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the made-up text and times. Replica i uses seed + i."""

    def faults(self) -> Iterator[Fault]:
        """Whether the replicas can start."""
        yield from super().faults()
        yield from _repeated("adapters", (self.model, *self.adapters), offset=-1)
        if self.adapters and self.max_loras == 0:
            yield Fault(("max_loras",), "1 or more, or null, with adapters", "0")
        if self.num_blocks is not None and self.max_model_len is not None:
            held = self.num_blocks * self.block_size
            if self.max_model_len > held:
                most = f"at most {held}, which num_blocks x block_size holds"
                yield Fault(("max_model_len",), most, str(self.max_model_len))

    @property
    def example_model(self) -> str | None:
        """The base model."""
        return self.model


EnvValue = Annotated[TextOrSecret, "text or [secret](#secrets)"]


class ProcessPool(_AnyPool):
    """Replicas that Penstock starts, watches and stops: a command for each."""

    type: Literal["process"]
    """Kind of pool."""
    replicas: Annotated[int, Field(ge=0, le=256)] = 1
    """Number of replicas."""
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """Command and arguments; no shell. `{port}`, `{host}` and `{index}` (0, 1, ...) are filled
    in, and `{kv_events_port}` and `{kv_replay_port}` with free ports, at which the replica's KV
    events are then expected; other braces stay as they are."""
    env: Mapping[str, EnvValue] = {}
    """Environment variables on top of Penstock's own: text, in which `{port}`, `{host}` and
    `{index}` are filled in, or a secret (`{env: NAME}`, `{file: PATH}`). A name that ends in KEY,
    TOKEN, SECRET, PASSWORD or CREDENTIALS takes only the latter."""
    cwd: ConfigPath | None = None
    """Working folder, relative to the configuration file. Null: Penstock's."""
    host: IpAddress = "127.0.0.1"
    """Address that the replicas listen on."""
    first_port: Port | None = None
    """Replica i listens on first_port + i. Null: a free port is taken."""
    ready: Ready = Ready()
    """When a replica takes requests."""
    stop: Stop = Stop()
    """How a replica is stopped."""
    restart: Restart = Restart()
    """How a replica that ended is started again."""
    upstream: Upstream = Upstream()
    """What requests to the replicas carry: a key, a host, headers. Without a key here, the one that
    the replicas are started with counts: `--api-key` in `command`, or VLLM_API_KEY in `env`."""

    def faults(self) -> Iterator[Fault]:
        """The command, the environment and the ports."""
        yield from super().faults()
        texts = [*self.command, *(v for v in self.env.values() if isinstance(v, str))]
        if not any("{port}" in text for text in texts):
            yield Fault(
                ("command",),
                "{port} in an argument or in a value of `env`",
                hint="each replica listens on a port of its own: add --port {port}",
            )
        for name, value in self.env.items():
            if isinstance(value, str) and _SECRET_NAME.search(name):
                yield Fault(
                    ("env", name),
                    "{env: NAME} or {file: PATH}, because the variable's name is that of a secret",
                    got="a value that is not shown",
                )
        if not self.command[0]:
            yield Fault(("command", 0), "a program")
        if self.first_port is not None and self.first_port + self.replicas - 1 > 65535:
            yield Fault(("first_port",), f"at most {65536 - self.replicas}")

    @property
    def upstream_headers(self) -> UpstreamHeaders:
        """What every request to the replicas carries. Holds secrets."""
        key = key_in_command(self.command)
        if key is None and isinstance(given := self.env.get(_VLLM_KEY), Secret):
            key = given.reveal()
        return self.upstream.request_headers(else_key=key)

    @property
    def ports(self) -> range:
        """Ports that are set aside for the replicas; empty when free ones are taken."""
        if self.first_port is None:
            return range(0)
        return range(self.first_port, self.first_port + self.replicas)


Pool = Annotated[StaticPool | SimulatedPool | ProcessPool, Field(discriminator="type")]


def _repeated(key: str, values: tuple[str, ...], offset: int = 0) -> Iterator[Fault]:
    for index, _ in repeats(values):
        yield Fault(
            (key, index + offset), "each one once", hint=f"{values[index]} is already there"
        )
