"""What is simulated: replicas, how they are seen, and by which policy requests are routed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import policies.routing  # noqa: F401 - registers the built-in policies
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.scheduler import Limits
from policies.registry import build
from policies.routing.types import RoutingPolicy


@dataclass(frozen=True, slots=True)
class Seeing:
    """How late and how often a gateway learns of things, seconds."""

    scrape_interval_s: float = 0.25
    """Between two reads of a replica that has requests."""
    idle_scrape_interval_s: float = 1.0
    """Of one that has none."""
    scrape_delay_s: float = 0.005
    """From the engine's state to its being known."""
    network_s: float = 0.0005
    """One way, between gateway and replica."""
    decision_s: float = 0.001
    """What the gateway itself takes for a request."""
    report_delay_s: float = 0.05
    """From a response's end to the gateway's knowing of it: Envoy's access logs are flushed as
    often."""


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A policy of the registry by name."""

    name: str
    params: Mapping[str, object] = field(default_factory=dict)
    label: str = ""
    """What reports call it, "" = its name."""

    @property
    def title(self) -> str:
        """For people, and to tell two of one name apart."""
        return self.label or self.name

    def built(self) -> RoutingPolicy:
        """A fresh one. Raises PolicyError."""
        policy = build("policy", self.name, self.params)
        if not isinstance(policy, RoutingPolicy):
            raise TypeError(f"policy {self.name!r} has no rank() and observe() methods")
        return policy


@dataclass(frozen=True, slots=True)
class Setting:
    """A pool of equal replicas behind one picker."""

    profile: Profile
    limits: Limits
    replicas: int
    policy: PolicyChoice
    seeing: Seeing = field(default_factory=Seeing)
    client_timeout_s: float | None = None
    """After which a client goes away; None: never."""
