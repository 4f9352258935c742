"""What is simulated: replicas, what a gateway sees of them and when, and the routing policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from loadtests.sim.model.profile import Profile
from loadtests.sim.model.scheduler import EngineLimits
from picker.settings import FlowSettings
from policies.limits.plan import TenantPolicy
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
class Troubles:
    """What is not as it should be with the replicas, or with what is heard of them.

    Speeds are those of an engine's steps, 1 = as the profile.
    """

    slow_share: float = 0.0
    """Share of the replicas, the first ones, that have another speed all the time."""
    slow_speed: float = 0.5
    degrade_at_s: float = inf
    """From then on the last replica has another speed."""
    degrade_speed: float = 0.3
    deaf_from_s: float = inf
    """From then on no scrape succeeds."""

    def __post_init__(self) -> None:
        if not 0 <= self.slow_share <= 1:
            raise ValueError(f"a share is from 0 to 1, got {self.slow_share:g}")
        for name in ("slow_speed", "degrade_speed"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be over 0, got {getattr(self, name):g}")


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """What a tenant is to the queue."""

    weight: int = 1
    priority: int = 0
    objective: str = ""
    """That its requests name; one of `FlowSettings.objectives`."""

    def policy(self, tenant: str) -> TenantPolicy:
        """As the picker has it."""
        trusted = bool(self.objective)
        return TenantPolicy(
            tenant, priority=self.priority, weight=self.weight, flow_headers=trusted
        )


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
    troubles: Troubles = field(default_factory=Troubles)
    kv_events: bool = False
    """The picker knows the engines' caches by their events, and the tokens of every prompt."""
    queue: bool = False
    """Requests that the replicas could not begin wait in the picker."""
    flow: FlowSettings = field(default_factory=FlowSettings)
    """How they wait."""
    tenants: Mapping[str, TenantTerms] = field(default_factory=dict)
    """Of those that are not as others are."""
