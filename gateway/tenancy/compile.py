"""Compiles sections of the configuration to policies of tenants and to prices."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from gateway.config.config import Config
from gateway.config.schema.limit import Limit
from gateway.config.schema.pricing import ModelPrice, Pricing, Weights
from gateway.config.schema.tenancy import Plan, Tenant
from policies.limits.expression import Expression, Unit
from policies.limits.plan import By, LimitRule, OnStoreFailure, PriceList, TenantPolicy
from policies.limits.prices import MICROS, Cost, Price
from policies.limits.types import (
    UTC,
    CalendarWindow,
    Concurrency,
    Dimension,
    Lifetime,
    Period,
    Rule,
    TokenBucket,
)

_LOG: Final = logging.getLogger("penstock.limits")
_NO_PLAN: Final = Plan(name="none")


class Policies:
    """The policies of a configuration's tenants. Make a new one when the configuration changes.

    Plans are compiled once: tenants without limits of their own share the rules of their plan.
    """

    def __init__(self, config: Config) -> None:
        self._expressions: dict[tuple[str, Unit], Expression] = {}
        self._plans = {plan.name: plan for plan in config.plans}
        self._tenants = {tenant.name: tenant for tenant in config.tenants}
        self._identity = config.identity_in_force
        pricing = config.pricing or Pricing()
        self._weights = self._weighted(pricing.weights)
        self.prices = PriceList(
            tuple((price.model, self._price(price)) for price in pricing.models)
        )
        """Prices of models, for limits of money and for usage rows."""
        self._rules = {plan.name: self._compiled(plan.limits) for plan in config.plans}

        unknown = self._identity.unknown_tenants
        self._unknown = None if unknown is None else self.of(Tenant(name="any", plan=unknown))

    @property
    def failures(self) -> int:
        """CEL evaluations without a sound value, which counted as 0: see `Expression.micros`."""
        return sum(expression.failures for expression in self._expressions.values())

    def of(self, tenant: Tenant) -> TenantPolicy:
        """The tenant's policy, from its plan and its own settings.

        A tenant whose plan is not in the configuration is disabled, because without the limits of
        its plan it would be unlimited: see `lacks_plan`.
        """
        if self.lacks_plan(tenant):
            return TenantPolicy(
                tenant.name, disabled=True, plan=tenant.plan or "", prices=self.prices
            )
        plan = _NO_PLAN if tenant.plan is None else self._plans[tenant.plan]
        failure = tenant.on_store_failure or plan.on_store_failure
        rules = self._rules.get(plan.name, ()) if tenant.plan is not None else ()
        return TenantPolicy(
            tenant=tenant.name,
            rules=_merged(rules, self._compiled(tenant.limits)),
            models=plan.models if tenant.models is None else tenant.models,
            priority=plan.priority if tenant.priority is None else tenant.priority,
            weight=plan.weight if tenant.weight is None else tenant.weight,
            on_store_failure=OnStoreFailure(failure),
            disabled=tenant.disabled,
            plan=tenant.plan or "",
            prices=self.prices,
            clamp_max_tokens=(
                plan.clamp_max_tokens
                if tenant.clamp_max_tokens is None
                else tenant.clamp_max_tokens
            ),
            flow_headers=(
                plan.flow_headers if tenant.flow_headers is None else tenant.flow_headers
            ),
            client_priority=(
                plan.client_priority if tenant.client_priority is None else tenant.client_priority
            ),
        )

    def lacks_plan(self, tenant: Tenant) -> bool:
        """Whether the tenant refers to a plan that is not in the configuration."""
        return tenant.plan is not None and tenant.plan not in self._plans

    def for_key(self, policy: TenantPolicy, key_limits: Sequence[Limit]) -> TenantPolicy:
        """The tenant's policy with a key's own limits, each counted by key.

        A limit of the key replaces the tenant's limit by key of the same name. The tenant's limits
        that are not by key stay, whatever their names are.
        """
        if not key_limits:
            return policy
        own = self._compiled(by_key(limit) for limit in key_limits)
        names = {rule.name for rule in own}
        kept = (r for r in policy.rules if not (By.KEY in r.by and r.name in names))
        return replace(policy, rules=(*kept, *own))

    def unknown(self, name: str) -> TenantPolicy | None:
        """The policy of a tenant that is not configured: that of the plan
        `identity.unknown_tenants`; None: there is no such plan, and the tenant is refused. The name
        is not checked."""
        return None if self._unknown is None else replace(self._unknown, tenant=name)

    def anonymous(self) -> TenantPolicy | None:
        """The policy of requests without identity. None: they are refused."""
        name = self._identity.anonymous
        return None if name is None else self.of(self._tenants[name])

    def _compiled(self, limits: Iterable[Limit]) -> tuple[LimitRule, ...]:
        return tuple(self._rule(limit) for limit in limits)

    def _rule(self, limit: Limit) -> LimitRule:
        weights = None
        if limit.count == "weighted_tokens":
            weights = self._weights if limit.weights is None else self._weighted(limit.weights)
        return LimitRule(
            name=limit.effective_name,
            thing=limit.thing,
            dimension=Dimension.MONEY if limit.count == "cost" else Dimension(limit.count),
            rule=_arithmetic(limit),
            by=tuple(By(kind) for kind in limit.by),
            models=limit.models,
            pools=limit.pools,
            shadow=limit.shadow,
            weights=weights,
        )

    def _price(self, price: ModelPrice) -> Cost:
        if price.cel is not None:
            return self._expression(price.cel, Unit.MONEY)
        return _linear(price.input, price.output, price.cached_input, price.reasoning)

    def _weighted(self, weights: Weights) -> Cost:
        if weights.cel is not None:
            return self._expression(weights.cel, Unit.TOKENS)
        one = Decimal(1)
        return _linear(
            one if weights.input is None else weights.input,
            one if weights.output is None else weights.output,
            weights.cached_input,
            weights.reasoning,
        )

    def _expression(self, text: str, unit: Unit) -> Expression:
        found = self._expressions.get((text, unit))
        if found is None:
            found = Expression(text, unit, on_failure=_FailureLog())
            self._expressions[text, unit] = found
        return found


class _FailureLog:
    """Logs the 1st, 2nd, 4th, 8th, ... failure of an expression, because a broken one fails
    often."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, message: str) -> None:
        self._count += 1
        if self._count & (self._count - 1) == 0:
            _LOG.error("the CEL expression %s (%d so far)", message, self._count)


def by_key(limit: Limit) -> Limit:
    """A key's own limit as it counts: by key, so that its name and buckets are those of the key."""
    if "key" in limit.by:
        return limit
    return limit.model_copy(update={"by": ("key", *limit.by)})


def micros(amount: Decimal) -> int:
    """Whole millionths of a number that has at most six places."""
    return int(amount * MICROS)


def _merged(plan: tuple[LimitRule, ...], own: tuple[LimitRule, ...]) -> tuple[LimitRule, ...]:
    if not own:
        return plan
    replaced = {rule.name for rule in own}
    return (*(rule for rule in plan if rule.name not in replaced), *own)


def _arithmetic(limit: Limit) -> Rule:
    amount = micros if limit.count == "cost" else int
    most = amount(limit.limit)
    if limit.lasts_a_life:
        return Lifetime(most, round(limit.effective_idle_s * 1_000))
    if limit.period is None:
        return Concurrency(most)
    period = Period(limit.period)
    if limit.effective_window == "calendar":
        return CalendarWindow(most, period, limit.time_zone or UTC)
    return TokenBucket.per(period, most, burst=None if limit.burst is None else amount(limit.burst))


def _linear(
    input_: Decimal | None,
    output: Decimal | None,
    cached_input: Decimal | None,
    reasoning: Decimal | None,
) -> Price:
    """Amounts per million tokens. Used as weights, they give whole weighted tokens, because weights
    count in millionths, too."""
    return Price(
        micros(input_ or Decimal(0)),
        micros(output or Decimal(0)),
        None if cached_input is None else micros(cached_input),
        None if reasoning is None else micros(reasoning),
    )
