"""Tokens from a measure of text, by tenant and model: calibrated by what engines report, so that no
tenant's traffic makes another's estimate wrong."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

_LEAST_WEIGHT: Final = 0.05
"""Share of an observation in the estimate, when there have been many: about the last 20 count."""
_MOST_STEP: Final = math.log(2.0)
"""One observation counts as at most twice or half of what was known."""
_SURE_TOKENS: Final = 256.0
"""Shorter prompts say nothing about how wrong estimates are."""
_ERROR_WEIGHT: Final = 0.2
_LARGE_ERROR: Final = math.log(1.5)
_BINS: Final = 129
_PRIOR_VOTES: Final = 2
"""Votes for the prior: so a model's ratio is moved by three tenants that agree, not by one."""


@dataclass(slots=True)
class _Tenant:
    log_ratio: float
    weight: float = 0.0
    error: float = 0.0
    """Mean of |log(estimated / reported)| over recent prompts."""
    vote: int = -1


@dataclass(slots=True)
class _Model:
    votes: list[int] = field(default_factory=lambda: [0] * _BINS)
    count: int = 0
    log_ratio: float | None = None
    """The median of the votes; None: not known since the last change."""


class TenantRatios:
    """How much of a measure of text, such as bytes, makes a token.

    A model's ratio is the median over tenants, one vote for each and two for the prior, within
    ``swing`` of the prior. A tenant's own ratio is a mean of logarithms over its recent prompts,
    each clipped, and counts within bounds around the model's: text may be as much as ``dearer``
    (more tokens) than the model's, and ``cheaper`` only by little, since a tenant could send
    cheap text for a while to have dear text pass under its limits.

    There are at most ``max_tenants`` entries, of about 250 bytes with their keys; the least
    recently used is forgotten, with its vote.
    """

    def __init__(
        self,
        prior: float,
        *,
        swing: float,
        dearer: float,
        cheaper: float,
        half_size_tokens: float = 1_000.0,
        prior_weight: float = 0.5,
        max_tenants: int = 100_000,
        max_models: int = 4_096,
    ) -> None:
        """A text of ``half_size_tokens`` weighs half as much as a very long one: in a short one,
        the chat template is most of the tokens. The model's ratio weighs as much as
        ``prior_weight`` long texts of a new tenant. Raises ValueError for factors below 1."""
        if min(swing, dearer, cheaper) < 1.0 or prior <= 0:
            raise ValueError(f"factors must be 1 or more: {swing:g}, {dearer:g}, {cheaper:g}")
        self._prior = math.log(prior)
        self._swing, self._dearer, self._cheaper = map(math.log, (swing, dearer, cheaper))
        self._half_size_tokens, self._prior_weight = half_size_tokens, prior_weight
        self._reach = self._swing + max(self._dearer, self._cheaper)
        self._max_tenants, self._max_models = max_tenants, max_models
        self._tenants: OrderedDict[tuple[str, str], _Tenant] = OrderedDict()
        self._models: dict[str, _Model] = {}

    def __len__(self) -> int:
        """Tenants' entries."""
        return len(self._tenants)

    def of_model(self, model: str) -> float:
        """For a tenant that is new; the prior for a model that is."""
        return math.exp(self._of_model(model))

    def tokens(self, tenant: str, model: str, measure: float) -> float:
        """Estimated tokens of so much text."""
        return measure / math.exp(self._of(tenant, model))

    def is_unsure(self, tenant: str, model: str) -> bool:
        """The tenant's recent estimates were wrong by half or more."""
        known = self._tenants.get((tenant, model))
        return known is not None and known.error > _LARGE_ERROR

    def observe(self, tenant: str, model: str, measure: float, tokens: float) -> None:
        """Learn from a prompt of text alone, for which the engine reported ``tokens``. What cannot
        be true is ignored."""
        if measure <= 0 or tokens <= 0:
            return
        key = (tenant, model)
        seen = math.log(measure / tokens)
        known = self._tenants.get(key)
        if tokens >= _SURE_TOKENS and known is not None:
            error = abs(seen - self._of(tenant, model))
            known.error += _ERROR_WEIGHT * (error - known.error)
        if known is None:
            if len(self._tenants) >= self._max_tenants:
                self._forget()
            known = self._tenants[key] = _Tenant(self._of_model(model))
            if tokens >= _SURE_TOKENS:
                known.error = _ERROR_WEIGHT * abs(seen - known.log_ratio)
        else:
            self._tenants.move_to_end(key)
        size = tokens / (tokens + self._half_size_tokens)
        known.weight += size
        share = size * max(_LEAST_WEIGHT, 1.0 / (known.weight + self._prior_weight))
        step = min(_MOST_STEP, max(-_MOST_STEP, seen - known.log_ratio))
        known.log_ratio += min(1.0, share) * step
        reach = self._reach
        known.log_ratio = min(self._prior + reach, max(self._prior - reach, known.log_ratio))
        if known.weight >= 1.0:
            self._vote(model, known)

    # -- inside

    def _of(self, tenant: str, model: str) -> float:
        middle = self._of_model(model)
        known = self._tenants.get((tenant, model))
        if known is None:
            return middle
        return min(middle + self._cheaper, max(middle - self._dearer, known.log_ratio))

    def _of_model(self, name: str) -> float:
        model = self._models.get(name)
        if model is None:
            return self._prior
        if model.log_ratio is None:
            model.log_ratio = self._median(model)
        return model.log_ratio

    def _median(self, model: _Model) -> float:
        """Of all votes, the one that is nearest to the prior where there are two in the middle."""
        votes = model.votes.copy()
        votes[self._bin(self._prior)] += _PRIOR_VOTES
        total = model.count + _PRIOR_VOTES
        lower, upper = (total - 1) // 2, total // 2
        middles = []
        for wanted in (lower, upper):
            below = 0
            for number, count in enumerate(votes):
                below += count
                if below > wanted:
                    middles.append(self._value(number))
                    break
        nearest = min(middles, key=lambda value: abs(value - self._prior))
        return min(self._prior + self._swing, max(self._prior - self._swing, nearest))

    def _vote(self, name: str, tenant: _Tenant) -> None:
        number = self._bin(tenant.log_ratio)
        if number == tenant.vote:
            return
        model = self._models.get(name)
        if model is None:
            if len(self._models) >= self._max_models:
                self._forget_model(next(iter(self._models)))
            model = self._models[name] = _Model()
        if tenant.vote >= 0:
            model.votes[tenant.vote] -= 1
            model.count -= 1
        model.votes[number] += 1
        model.count += 1
        model.log_ratio, tenant.vote = None, number

    def _forget(self) -> None:
        (_, name), tenant = self._tenants.popitem(last=False)
        model = self._models.get(name)
        if model is not None and tenant.vote >= 0:
            model.votes[tenant.vote] -= 1
            model.count -= 1
            model.log_ratio = None

    def _forget_model(self, name: str) -> None:
        del self._models[name]
        for key in [key for key in self._tenants if key[1] == name]:
            del self._tenants[key]

    def _bin(self, log_ratio: float) -> int:
        half = _BINS // 2
        return half + round((log_ratio - self._prior) / self._reach * half)

    def _value(self, number: int) -> float:
        half = _BINS // 2
        return self._prior + (number - half) / half * self._reach
