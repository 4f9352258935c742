"""What is simulated: replicas, what a gateway sees of them and when, and the routing policy."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtests.sim.model.profile import Profile
from loadtests.sim.model.scheduler import EngineLimits
from policies.routing.spec import PolicySpec


@dataclass(frozen=True, slots=True)
class Seeing:
    """How often and how late a gateway learns of things, in seconds."""

    scrape_interval_s: float = 0.25
    """Between two reads of a replica that has requests."""
    idle_scrape_interval_s: float = 1.0
    """Between two reads of a replica that has none."""
    scrape_delay_s: float = 0.005
    """From the engine's state to the gateway's knowledge of it."""
    network_s: float = 0.0005
    """One way between gateway and replica."""
    decision_s: float = 0.001
    """The gateway's own time for a request."""
    report_delay_s: float = 0.05
    """From the end of a response to the gateway's knowledge of it: the interval at which Envoy
    writes its access log."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A pool of equal replicas behind one picker."""

    profile: Profile
    limits: EngineLimits
    replicas: int
    policy: PolicySpec
    seeing: Seeing = field(default_factory=Seeing)
    client_timeout_s: float | None = None
    """Clients give up after this time; None: never."""
