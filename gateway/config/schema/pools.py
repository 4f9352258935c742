"""Pools: the groups of replicas that requests are routed to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from gateway.config.schema.fault import Fault, raise_faults, repeats
from gateway.config.schema.secret import TextOrSecret
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

_SECRET_NAME: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$", re.IGNORECASE)


class _AnyPool(Section):
    name: Name
    """Name of the pool, unique. It names the Envoy cluster and labels metrics."""
    profile: Name | None = None
    """Scheduling profile of this pool. Null: `scheduling.default_profile`."""
    models: tuple[ModelName, ...] = ()
    """Base models that the replicas serve. This only makes them known before the first replica is
    up (503 instead of 404): Penstock reads what is really served from /v1/models."""
    engine: Literal["auto", "vllm", "sglang", "trtllm"] = "auto"
    """Inference engine, which decides the names of its metrics. auto: recognised by its metrics."""
    default: bool = False
    """This pool takes the requests that name no model (pass-through paths). At most one pool."""
    drain_timeout_s: Seconds = 600.0
    """Longest time that a replica being removed may go on serving its running requests, seconds."""

    @model_validator(mode="after")
    def _distinct_models(self) -> Self:
        raise_faults("pool", _repeated("models", self.models))
        return self

    @property
    def example_model(self) -> str | None:
        """A base model that the replicas serve; None: none is declared."""
        return self.models[0] if self.models else None

    @property
    def upstream_tls(self) -> UpstreamTls | None:
        """TLS to the replicas; None: plain HTTP."""
        return None

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

    @model_validator(mode="after")
    def _distinct_endpoints(self) -> Self:
        raise_faults("pool", _repeated("endpoints", self.endpoints))
        return self

    @property
    def upstream_tls(self) -> UpstreamTls | None:
        """TLS to the replicas; None: plain HTTP."""
        return self.tls

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

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_backoff_s < self.initial_backoff_s:
            raise_faults(
                "restart",
                [
                    Fault(
                        ("max_backoff_s",),
                        f"at least initial_backoff_s, {self.initial_backoff_s:g}",
                    )
                ],
            )
        return self


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

    @model_validator(mode="after")
    def _can_start(self) -> Self:
        faults = _repeated("adapters", (self.model, *self.adapters), offset=-1)
        if self.adapters and self.max_loras == 0:
            faults.append(Fault(("max_loras",), "1 or more, or null, with adapters", "0"))
        if self.num_blocks is not None and self.max_model_len is not None:
            held = self.num_blocks * self.block_size
            if self.max_model_len > held:
                fault = Fault(
                    ("max_model_len",),
                    f"at most {held}, which num_blocks x block_size holds",
                    str(self.max_model_len),
                )
                faults.append(fault)
        raise_faults("pool", faults)
        return self

    @property
    def example_model(self) -> str | None:
        """The base model."""
        return self.model


EnvValue = Annotated[TextOrSecret, "environment variable"]


class ProcessPool(_AnyPool):
    """Replicas that Penstock starts, watches and stops: a command for each."""

    type: Literal["process"]
    """Kind of pool."""
    replicas: Annotated[int, Field(ge=0, le=256)] = 1
    """Number of replicas."""
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """Command and arguments; no shell. `{port}`, `{host}` and `{index}` (0, 1, ...) are filled
    in; other braces stay as they are."""
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

    @model_validator(mode="after")
    def _knows_its_port(self) -> Self:
        texts = [*self.command, *(v for v in self.env.values() if isinstance(v, str))]
        faults = []
        if not any("{port}" in text for text in texts):
            faults.append(
                Fault(
                    ("command",),
                    "{port} in an argument or in a value of `env`",
                    hint="each replica listens on a port of its own: add --port {port}",
                )
            )
        faults += [
            Fault(
                ("env", name),
                "{env: NAME} or {file: PATH}, because the variable's name is that of a secret",
                got="a value that is not shown",
            )
            for name, value in self.env.items()
            if isinstance(value, str) and _SECRET_NAME.search(name)
        ]
        if not self.command[0]:
            faults.append(Fault(("command", 0), "a program"))
        if self.first_port is not None and self.first_port + self.replicas - 1 > 65535:
            faults.append(Fault(("first_port",), f"at most {65536 - self.replicas}"))
        raise_faults("pool", faults)
        return self

    @property
    def ports(self) -> range:
        """Ports that are set aside for the replicas; empty when free ones are taken."""
        if self.first_port is None:
            return range(0)
        return range(self.first_port, self.first_port + self.replicas)


Pool = Annotated[StaticPool | SimulatedPool | ProcessPool, Field(discriminator="type")]


def _repeated(key: str, values: tuple[str, ...], offset: int = 0) -> list[Fault]:
    return [
        Fault((key, index + offset), "each one once", hint=f"{values[index]} is already there")
        for index, _ in repeats(values)
    ]
