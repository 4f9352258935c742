"""One simulated replica: the models it serves and the engine that runs them."""

import time
from dataclasses import dataclass, field

import xxhash

from loadtests.sim.answers import AnswerLengths
from loadtests.sim.engine import Engine
from loadtests.sim.scheduler import EngineSettings

VERSION = "0.32.0+sim"
"""The vLLM version whose HTTP surface is followed."""


class UnknownModelError(Exception):
    """The replica serves no model or adapter of that name."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What is served. `models` are names of the one base model, the first is the canonical one."""

    models: tuple[str, ...]
    adapters: tuple[str, ...] = ()
    engine: EngineSettings = field(default_factory=EngineSettings)
    lengths: AnswerLengths = field(default_factory=AnswerLengths)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("no model name is given")
        if self.adapters and not self.engine.max_loras:
            raise ValueError(f"adapters {', '.join(self.adapters)} need max_loras of at least 1")


class Replica:
    """State behind one port."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self.settings = settings
        self.engine = Engine(settings.engine)
        self.adapter_paths = {name: f"/adapters/{name}" for name in settings.adapters}
        self.started_at = int(time.time())

    @property
    def base_model(self) -> str:
        """The base model's canonical name."""
        return self.settings.models[0]

    @property
    def max_model_tokens(self) -> int:
        """Longest prompt plus answer."""
        return self.settings.engine.max_model_tokens

    def adapter_of(self, model: str) -> str | None:
        """The adapter that a model name means, None for the base model.

        Raises UnknownModelError.
        """
        if model in self.settings.models:
            return None
        if model in self.adapter_paths:
            return model
        raise UnknownModelError(model)

    def salt(self, adapter: str | None, cache_salt: str) -> int:
        """Start of the chain of block hashes: prefixes with different salts never match."""
        return xxhash.xxh3_64_intdigest(f"{adapter or ''}\0{cache_salt}".encode())
