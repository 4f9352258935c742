"""Which model names lead where: rewrites, aliases, base models and adapters over all pools."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from msgspec import Struct

from picker.settings import PickerSettings, RewriteRule, RewriteTarget
from picker.state.models import ServedModel
from picker.state.pool import PoolRuntime
from picker.state.readiness import Readiness, readiness

GENERIC: Final = "*"


_T = TypeVar("_T")


class Occasion(Struct, frozen=True):
    """What decides between several pools."""

    now_s: float
    subset: frozenset[str] | None = None
    """Endpoints that the gateway allows; None: all."""
    session: str = ""
    """Key of the request's session, "" without one."""
    pool: str | None = None
    """Pool that the request must go to; None: any."""


class Serving(Struct, frozen=True):
    """Where a served model lives."""

    pool: PoolRuntime
    is_adapter: bool


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model, adapter or alias, as clients are shown it."""

    id: str
    root: str
    """What it is made from: the engine's path or name; an alias has its target's."""
    parent: str | None
    """Base model of an adapter."""
    max_model_tokens: int | None
    """Longest context, prompt and answer; None: not known."""
    created: int
    """Seconds since the epoch; 0: not known."""


class Catalog:
    """Answers by name; reads live state, holds none of its own but the settings."""

    def __init__(self, pools: Mapping[str, PoolRuntime], rng: random.Random) -> None:
        self._pools = pools
        self._rng = rng
        self._rules: Mapping[str, RewriteRule] = {}
        self._default_pool: str | None = None

    def configure(self, settings: PickerSettings) -> None:
        """Take over rewrites and the default pool."""
        self._rules = settings.rules
        self._default_pool = settings.default_pool

    @property
    def default_pool(self) -> PoolRuntime | None:
        """Takes what names no model."""
        return self._pools.get(self._default_pool or "")

    @property
    def complete(self) -> bool:
        """Every pool's models are known: a name not found does not exist."""
        return all(p.settings.models or p.state.models.known() for p in self._pools.values())

    @property
    def problem(self) -> str:
        """Why the models of a pool are not known; "" when no replica of it has been asked yet."""
        unknown = (p.state for p in self._pools.values() if not p.state.models.known())
        return next(filter(None, (state.models_problem() for state in unknown)), "")

    def rewrite(self, asked: str | None, at: Occasion) -> RewriteTarget | None:
        """The target of the model asked for: an exact rule, the name itself when it is served,
        else the generic rule; None when there is no name and no generic rule. Of several targets
        one by its weight, of those that can be served best."""
        rule = self._rules.get(asked) if asked else None
        if rule is None and asked and self._is_served(asked):
            return RewriteTarget(asked)
        rule = rule or self._rules.get(GENERIC)
        if rule is None:
            return RewriteTarget(asked) if asked else None
        targets = rule.targets
        if len(targets) == 1:
            return targets[0]
        ready = [self._readiness(target, at) for target in targets]
        best = [one for one, how in zip(targets, ready, strict=True) if how == max(ready)]
        return self._choose(best, [target.weight for target in best], at, rule.model)

    def only_model(self) -> RewriteTarget | None:
        """The base model of the default pool; None when it has another number of them than one."""
        pool = self.default_pool
        if pool is None:
            return None
        known = pool.state.models.known().values()
        names = {model.id for model in known if model.parent is None} | set(pool.settings.models)
        return RewriteTarget(names.pop(), pool=pool.name) if len(names) == 1 else None

    def serving(self, model: str, at: Occasion, *, pool: str | None = None) -> Serving | None:
        """The pool that serves ``model``: of several the one that can do so best, of equals one by
        its weight, and of those without one the first."""
        found = self._serving(model, pool)
        if len(found) < 2:
            return found[0] if found else None
        ready = [readiness(one.pool, model, at.now_s, at.subset) for one in found]
        best = [one for one, how in zip(found, ready, strict=True) if how == max(ready)]
        if max(ready) <= Readiness.OUT:
            return best[0]
        return self._choose(best, [one.pool.settings.weight for one in best], at, "")

    def _serving(self, model: str, pool: str | None) -> list[Serving]:
        found: list[Serving] = []
        for runtime in self._pools.values():
            if pool is not None and runtime.name != pool:
                continue
            known = runtime.state.models.known().get(model)
            if known is not None or model in runtime.settings.models:
                found.append(Serving(runtime, known is not None and known.parent is not None))
        return found

    def _readiness(self, target: RewriteTarget, at: Occasion) -> Readiness:
        if at.pool is not None and target.pool not in (None, at.pool):
            return Readiness.NONE
        found = self._serving(target.model, at.pool or target.pool)
        each = (readiness(one.pool, target.model, at.now_s, at.subset) for one in found)
        return max(each, default=Readiness.NONE)

    def _choose(
        self, best: Sequence[_T], weights: Sequence[float], at: Occasion, between: str
    ) -> _T:
        """One by its weight, the same one for all requests of a session. ``between``: what is
        chosen; a session's choices of a target and of its pool must not hang together, else some
        pools of a target would get none of its sessions."""
        if not any(weights):
            return best[0]
        rng = self._rng
        if at.session:
            rng = random.Random(f"{between}\0{at.session}")  # noqa: S311 - a share
        return rng.choices(best, weights=weights)[0]

    def max_model_tokens(self, model: str) -> int | None:
        """Longest context of a served model, tokens; None when no replica reports it."""
        for runtime in self._pools.values():
            known = runtime.state.models.known().get(model)
            if known is not None:
                return known.max_model_tokens
        return None

    def is_known(self, model: str) -> bool:
        """The name is an alias, a base model or an adapter of ours (and so bounded in number)."""
        return (model in self._rules and model != GENERIC) or self._is_served(model)

    def _is_served(self, model: str) -> bool:
        for pool in self._pools.values():
            if model in pool.state.models.known() or model in pool.settings.models:
                return True
        return False

    def models(self) -> list[CatalogModel]:
        """What clients may name, each once, in an order that stays: base models as the
        configuration has them and then as replicas list them, adapters, aliases."""
        found: dict[str, CatalogModel] = {}
        for runtime in self._pools.values():
            state = runtime.state
            slots = (state.slot_of[address] for address in sorted(state.slot_of))
            known = {model.id: model for model in state.models.served_now(slots)}
            for name in (*runtime.settings.models, *known):
                model = known.get(name) or state.models.known().get(name)
                found.setdefault(name, _entry(name, model))
        bases = [one for one in found.values() if one.parent is None]
        adapters = [one for one in found.values() if one.parent is not None]
        aliases = [
            self._alias(rule, found)
            for name, rule in self._rules.items()
            if name != GENERIC and name not in found
        ]
        return [*bases, *adapters, *aliases]

    def _alias(self, rule: RewriteRule, found: Mapping[str, CatalogModel]) -> CatalogModel:
        target = found.get(rule.targets[0].model) if len(rule.targets) == 1 else None
        if target is None:
            return CatalogModel(rule.model, rule.model, None, None, 0)
        return replace(target, id=rule.model, parent=None)


def _entry(name: str, model: ServedModel | None) -> CatalogModel:
    if model is None:
        return CatalogModel(name, name, None, None, 0)
    return CatalogModel(
        name, model.root or name, model.parent, model.max_model_tokens, model.created or 0
    )
