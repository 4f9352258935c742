"""Which limits a request counts against, and how much of each: rules, meters, policies."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from policies.limits.prices import Cost, Usage
from policies.limits.types import (
    MAX_AMOUNT,
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Rule,
    Take,
)


class By(enum.Enum):
    """What a rule keeps separate buckets for, within a tenant."""

    KEY = "key"
    USER = "user"
    MODEL = "model"
    POOL = "pool"


_MAX_FOUND: Final = 4_096
_ORDER: Final = {by: place for place, by in enumerate(By)}


class OnStoreFailure(enum.Enum):
    """How requests are decided while the limit store is away."""

    OPEN = "open"
    """All are admitted; what they use is charged when the store is back."""
    CLOSED = "closed"
    """None is: 503."""
    SHARE = "share"
    """Each picker admits its share of every limit, from full buckets at the outage's beginning."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request is, as far as limits see it. Bounded values only: ``model`` is a name of the
    catalogue, ``key`` the first id of a rotated key's line."""

    tenant: str
    key: str = ""
    user: str = ""
    model: str = ""
    pool: str = ""

    def of(self, by: By) -> str:
        """Its value of one kind."""
        if by is By.KEY:
            return self.key
        if by is By.USER:
            return self.user
        return self.model if by is By.MODEL else self.pool


@dataclass(frozen=True, slots=True)
class LimitRule:
    """One limit as an operator wrote it."""

    name: str
    """Unique among the rules of a policy, and stable: the buckets' keys begin with it."""
    dimension: Dimension
    rule: Rule
    by: tuple[By, ...] = ()
    """A bucket for each value of these; (): one for the tenant."""
    models: tuple[str, ...] = ()
    """Patterns (``*``, ``?``, ``[...]``) of the models it holds for; (): all."""
    pools: tuple[str, ...] = ()
    """Names of the pools it holds for; (): all."""
    shadow: bool = False
    weights: Cost | None = None
    """What weighted tokens amount to; None for other dimensions."""

    def applies(self, subject: Subject) -> bool:
        """Whether the request counts against it. One without a key or user does not count against
        a limit by key or user."""
        return (
            all(subject.of(by) for by in self.by)
            and (not self.models or matches(subject.model, self.models))
            and (not self.pools or subject.pool in self.pools)
        )

    def bucket(self, subject: Subject) -> Bucket:
        """The bucket of the request. Its key begins with the rule's name and a ``|``, or is it.

        Rules of one name and of different kinds have different buckets, so that gateways whose
        configurations differ do not begin each other's anew by turns.
        """
        values = [(by, subject.of(by)) for by in sorted(self.by, key=_ORDER.__getitem__)]
        parts = (self.name, *_kind(self.rule), *(f"{by.value}={value}" for by, value in values))
        key = "|".join(parts)
        whose = [f"tenant {subject.tenant}", *(f"{by.value} {value}" for by, value in values)]
        return Bucket(
            key=key,
            dimension=self.dimension,
            rule=self.rule,
            name=f"{self.name} of {', '.join(whose)}",
            shadow=self.shadow,
        )


def _kind(rule: Rule) -> tuple[str, ...]:
    """As part of a bucket's key; () for the most usual one."""
    if isinstance(rule, CalendarWindow):
        return (f"window={rule.period.value}",)
    return ("window=none",) if isinstance(rule, Concurrency) else ()


@dataclass(frozen=True, slots=True)
class Meter:
    """A bucket, and how much of it a usage is."""

    bucket: Bucket
    cost: Cost | None = None
    """Of weighted tokens the weights; of money the model's price, None: free."""

    _parts: tuple[int, int, int] = field(init=False, repr=False, compare=False)
    """Without a cost: of a request, of a token of its input, of a token of its output."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", _PARTS.get(self.bucket.dimension, _A_REQUEST))

    def amount(self, usage: Usage) -> int:
        """Whole units of the bucket's dimension, at most MAX_AMOUNT."""
        if self.cost is not None:
            amount = self.cost.micros(usage)
        else:
            request, input_, output = self._parts
            amount = request + input_ * usage.input_tokens + output * usage.output_tokens
        return min(MAX_AMOUNT, amount)


_A_REQUEST: Final = (1, 0, 0)
_PARTS: Final = {
    Dimension.INPUT_TOKENS: (0, 1, 0),
    Dimension.OUTPUT_TOKENS: (0, 0, 1),
    Dimension.TOTAL_TOKENS: (0, 1, 1),
    Dimension.WEIGHTED_TOKENS: (0, 0, 0),
    Dimension.MONEY: (0, 0, 0),
}


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices of models by pattern, the first that fits; a model without one costs nothing."""

    prices: Sequence[tuple[str, Cost]] = ()
    _found: dict[str, Cost | None] = field(default_factory=dict, compare=False, repr=False)

    def of(self, model: str) -> Cost | None:
        """The model's price."""
        if model not in self._found:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            self._found[model] = next(
                (cost for pattern, cost in self.prices if fnmatchcase(model, pattern)), None
            )
        return self._found[model]

    def micros(self, model: str, usage: Usage) -> int:
        """Whole micro-units of money."""
        cost = self.of(model)
        return 0 if cost is None else cost.micros(usage)


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What a tenant may do, its plan and its own settings put together."""

    tenant: str
    rules: tuple[LimitRule, ...] = ()
    models: tuple[str, ...] = ("*",)
    """Patterns of the models it may use."""
    priority: int = 0
    """Higher is more important; below 0 is shed first."""
    weight: int = 1
    """Share of a contended pool, relative to other tenants of the same priority."""
    on_store_failure: OnStoreFailure = OnStoreFailure.OPEN
    disabled: bool = False
    plan: str = ""
    """Name of the plan it refers to, "" for none."""

    prices: PriceList = PriceList()

    def meters(self, subject: Subject) -> tuple[Meter, ...]:
        """A meter for every rule that applies, in the rules' order."""
        return tuple(
            Meter(rule.bucket(subject), self._cost(rule, subject.model))
            for rule in self.rules
            if rule.applies(subject)
        )

    def _cost(self, rule: LimitRule, model: str) -> Cost | None:
        return self.prices.of(model) if rule.dimension is Dimension.MONEY else rule.weights


def takes(meters: Sequence[Meter], usage: Usage) -> list[Take]:
    """What a request of this (expected) usage takes from each bucket."""
    return [Take(meter.bucket, meter.amount(usage)) for meter in meters]


def charges(meters: Sequence[Meter], usage: Usage) -> Mapping[str, int]:
    """What a request of this usage is charged, by bucket key."""
    return {meter.bucket.key: meter.amount(usage) for meter in meters}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits the whole name, by case."""
    return any(pattern == "*" or fnmatchcase(name, pattern) for pattern in patterns)
