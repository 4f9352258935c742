"""One simulated replica: the models it serves and the engine that runs them."""

import time
from dataclasses import dataclass, field

from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.answers import AnswerLengths
from loadtests.sim.serving.control import EngineControl
from loadtests.sim.serving.engine import EngineSettings, RealTimeEngine
from loadtests.sim.serving.faults import Fault, Faults
from loadtests.sim.serving.generated import GeneratedLog
from loadtests.sim.serving.kv_events import KvEvents
from loadtests.sim.serving.kv_publisher import PublisherOptions

VERSION = "0.32.0+sim"
"""The vLLM version whose HTTP surface this one follows."""


class UnknownModelError(Exception):
    """The replica serves no model or adapter of that name."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What a replica serves. `models` are the names of one base model, its canonical name first."""

    models: tuple[str, ...]
    engine: EngineSettings
    adapters: tuple[str, ...] = ()
    lengths: AnswerLengths = field(default_factory=AnswerLengths)
    seed: int = 0
    kv_events: PublisherOptions | None = None
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("no model name is given")
        if self.adapters and not self.engine.limits.max_loras:
            raise ValueError(f"adapters {', '.join(self.adapters)} need max_loras of at least 1")


class SimulatedReplica:
    """The state behind one port. Raises EndpointError when KV events cannot be published."""

    def __init__(self, settings: ReplicaSettings, *, host: str = "*") -> None:
        self.settings = settings
        self.kv_events: KvEvents | None = None
        if settings.kv_events is not None:
            self.kv_events = KvEvents(
                settings.kv_events,
                block_size_tokens=self.limits.block_size_tokens,
                adapters=settings.adapters,
                host=host,
            )
        self.engine = RealTimeEngine(settings.engine, journal=self.kv_events)
        self.control = EngineControl(
            self.engine, settings.engine.profile, time_scale=settings.engine.time_scale
        )
        self.faults = Faults(self.control, settings.faults, seed=settings.seed)
        self.generated = GeneratedLog()
        self.adapter_paths = {name: f"/adapters/{name}" for name in settings.adapters}
        self.started_at = int(time.time())

    @property
    def base_model(self) -> str:
        """The base model's canonical name."""
        return self.settings.models[0]

    @property
    def limits(self) -> EngineLimits:
        """Of its engine."""
        return self.settings.engine.limits

    def adapter_of(self, model: str) -> str | None:
        """The adapter that a model name stands for; None for the base model.

        Raises UnknownModelError.
        """
        if model in self.settings.models:
            return None
        if model in self.adapter_paths:
            return model
        raise UnknownModelError(model)

    def adapter_path(self, adapter: str | None) -> str:
        """Where an adapter was loaded from; empty for the base model."""
        return "" if adapter is None else self.adapter_paths.get(adapter, "")
