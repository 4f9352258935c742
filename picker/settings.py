"""Settings of the picker: plain values, checked before they come here."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from picker.caps import DEFAULT_CAPS, Caps
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
    foreign_fallbacks: int = 0
    """Further choices that somebody else's gateway is told of."""
    breaker: BreakerRules | None = DEFAULT_RULES
    """When a replica that fails is left out; None: never."""
    default_output_tokens: float = 256.0
    """Expected output of a request that states no bound, for load accounting."""
    output_bound: OutputBound = OutputBound()
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
