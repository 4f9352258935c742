"""Settings of the picker: plain values, checked before they come here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from msgspec import Struct

from picker.caps import DEFAULT_CAPS, Caps
from policies.flow.orders import FAIR
from policies.flow.rules import DEFAULT_FLOW, FlowRules
from policies.health.breaker import DEFAULT_RULES, BreakerRules
from policies.routing.spec import PolicySpec


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """One pool of replicas that serve the same base models."""

    name: str
    policy: PolicySpec
    models: tuple[str, ...] = ()
    """Base models declared by the operator; more are learned from the replicas."""
    default: bool = False
    """Takes requests that name no model."""
    fallbacks: int = 2
    """Further choices after the first, for retries."""
    set_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What every request to the replicas carries, the host among them. May hold secrets."""
    engine: str = "auto"
    """Name of the inference engine, which decides what clients may call; "auto": any."""
    weight: float = 1.0
    """Share of the requests for a model that several pools serve."""
    queue: bool = False
    """Requests that the replicas could not begin at once wait in the picker."""
    shadow: PolicySpec | None = None
    """Asked beside ``policy``, and nothing is sent to what it chooses."""


class RewriteTarget(Struct, frozen=True):
    """One share of a model rewrite, or the whole of it."""

    model: str
    weight: float = 1.0
    pool: str | None = None


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """Sends an incoming model name elsewhere; ``"*"`` is generic and yields to exact names."""

    model: str
    targets: tuple[RewriteTarget, ...]


@dataclass(frozen=True, slots=True)
class OutputBound:
    """What is reserved for the output of a request that declares no maximum: see
    `policies.limits.estimate.OutputQuantile`."""

    share: float = 0.95
    min_tokens: int = 16
    max_tokens: int = 16_384
    prior_tokens: int = 1_024


class Objective(Struct, frozen=True):
    """What trusted requests may name to be served under."""

    name: str
    priority: int = 0
    ttft_s: float = inf
    """From arrival to the first token, as wanted; infinite: no matter."""


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """How requests wait for a pool that could not begin them."""

    rules: FlowRules = DEFAULT_FLOW
    order: str = FAIR
    """In which requests are served; of the registry."""
    ttl_s: float = 45.0
    """Longest wait of a request."""
    sheddable_ttl_s: float = 15.0
    """The same below priority 0, if it is shorter."""
    class_ttl_s: Mapping[int, float] = field(default_factory=dict)
    """The same of single classes, by priority, in place of both."""
    objectives: tuple[Objective, ...] = ()
    evict_for: int | None = None
    """Requests of this priority or a higher one that would wait have one below 0 evicted whose
    answer has not begun; None: none is."""
    trust_headers: bool = False
    """Every request may name its objective and fairness id, not only those of tenants that are
    trusted."""


@dataclass(frozen=True, slots=True)
class ForeignWait:
    """How long somebody else's gateway waits for an answer."""

    plain_s: float = 10.0
    """Of itself."""
    asked_s: float | None = None
    """When it is asked to; None: it cannot be asked."""


@dataclass(frozen=True, slots=True)
class PickerSettings:
    """Everything the picker's decisions depend on besides live state."""

    pools: tuple[PoolSettings, ...]
    rewrites: tuple[RewriteRule, ...] = ()
    max_body_bytes: int = 64 * 1024 * 1024
    caps: Caps = DEFAULT_CAPS
    lease_s: float = 3600.0
    stale_after_s: float = 5.0
    report_scores: bool = False
    shows_decisions: bool = False
    """Responses name the replica and its predicted time to the first token."""
    passthrough: tuple[str, ...] = ()
    """Paths that are open to clients beside those of the engines; ``PATH/*``: with all below."""
    handed_over: tuple[str, ...] = ()
    """Beginnings of paths that another process of this gateway serves: see `HandOver`."""
    foreign_fallbacks: int = 0
    """Further choices that somebody else's gateway is told of."""
    foreign_wait: ForeignWait = ForeignWait()
    decision_timeout_s: float = 10.0
    """How long our own Envoy waits for a decision, besides what a request waits for its pool."""
    breaker: BreakerRules | None = DEFAULT_RULES
    """When a replica that fails is left out; None: never."""
    default_output_tokens: float = 256.0
    """Expected output of a request that states no bound, for load accounting."""
    output_bound: OutputBound = OutputBound()
    flow: FlowSettings = FlowSettings()
    rules: dict[str, RewriteRule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rules: dict[str, RewriteRule] = {}
        for rule in self.rewrites:
            rules.setdefault(rule.model, rule)  # older before newer
        object.__setattr__(self, "rules", rules)

    @property
    def default_pool(self) -> str | None:
        """The pool for requests that name no model: the one marked so, else the first."""
        for pool in self.pools:
            if pool.default:
                return pool.name
        return self.pools[0].name if self.pools else None
