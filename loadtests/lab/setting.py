"""What is simulated: replicas, how they are seen, and by which policy requests are routed."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtests.sim.model.profile import Profile
from loadtests.sim.model.scheduler import EngineLimits
from policies.routing.spec import PolicySpec


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
class Setting:
    """A pool of equal replicas behind one picker."""

    profile: Profile
    limits: EngineLimits
    replicas: int
    policy: PolicySpec
    seeing: Seeing = field(default_factory=Seeing)
    client_timeout_s: float | None = None
    """After which a client goes away; None: never."""
