"""Which model names lead where: rewrites, aliases, base models and adapters over all pools."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from picker.settings import PickerSettings, RewriteRule, RewriteTarget
from picker.state.pool import PoolRuntime

GENERIC: Final = "*"


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a served model lives."""

    pool: PoolRuntime
    is_adapter: bool


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

    def rewrite(self, asked: str | None) -> RewriteTarget | None:
        """The target of the model asked for: an exact rule, the name itself when it is served,
        else the generic rule; None when there is no name and no generic rule."""
        rule = self._rules.get(asked) if asked else None
        if rule is None and asked and self._is_served(asked):
            return RewriteTarget(asked)
        rule = rule or self._rules.get(GENERIC)
        if rule is None:
            return RewriteTarget(asked) if asked else None
        targets = rule.targets
        if len(targets) == 1:
            return targets[0]
        return self._rng.choices(targets, weights=[target.weight for target in targets])[0]

    def only_model(self) -> RewriteTarget | None:
        """The base model of the default pool; None when it has another number of them than one."""
        pool = self.default_pool
        if pool is None:
            return None
        known = pool.state.models.known().values()
        names = {model.id for model in known if model.parent is None} | set(pool.settings.models)
        return RewriteTarget(names.pop(), pool=pool.name) if len(names) == 1 else None

    def serving(self, model: str, *, pool: str | None = None) -> Serving | None:
        """The pool that serves ``model``; one with a live replica for it before one without."""
        found: list[Serving] = []
        for runtime in self._pools.values():
            if pool is not None and runtime.name != pool:
                continue
            known = runtime.state.models.known().get(model)
            if known is not None or model in runtime.settings.models:
                found.append(Serving(runtime, known is not None and known.parent is not None))
        if len(found) > 1:
            for one in found:
                if one.pool.state.models.serving(model).any():
                    return one
        return found[0] if found else None

    def max_model_tokens(self, model: str) -> int | None:
        """Longest context of a served model, tokens; None when no replica told."""
        for runtime in self._pools.values():
            known = runtime.state.models.known().get(model)
            if known is not None:
                return known.max_model_tokens
        return None

    def is_known(self, model: str) -> bool:
        """The name is an alias, a base model or an adapter of ours (and so bounded in number)."""
        return (model in self._rules and model != GENERIC) or self._is_served(model)

    def _is_served(self, model: str) -> bool:
        return any(
            model in pool.state.models.known() or model in pool.settings.models
            for pool in self._pools.values()
        )

    def listing(self, allowed: Callable[[str], bool]) -> bytes:
        """Body of GET /v1/models: every base model, alias and adapter of every pool, once, as far
        as ``allowed`` says yes to its name."""
        entries = [entry for name, entry in self._entries().items() if allowed(name)]
        return orjson.dumps({"object": "list", "data": entries})

    def model(self, name: str) -> bytes | None:
        """Body of GET /v1/models/{name}."""
        entry = self._entries().get(name)
        return None if entry is None else orjson.dumps(entry)

    def _entries(self) -> dict[str, dict[str, object]]:
        entries: dict[str, dict[str, object]] = {}
        for runtime in self._pools.values():
            known = runtime.state.models.known()
            current = {model.id for model in runtime.state.models.served_now()}
            for name in (*runtime.settings.models, *current):
                model = known.get(name)
                entries.setdefault(
                    name,
                    _entry(
                        name,
                        parent=model.parent if model else None,
                        max_model_tokens=model.max_model_tokens if model else None,
                    ),
                )
        for name, rule in self._rules.items():
            if name != GENERIC:
                first = rule.targets[0].model if len(rule.targets) == 1 else None
                limit = self.max_model_tokens(first) if first else None
                entries.setdefault(name, _entry(name, parent=None, max_model_tokens=limit))
        return entries


def _entry(name: str, *, parent: str | None, max_model_tokens: int | None) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "penstock",
        "root": name,
        "parent": parent,
        "max_model_len": max_model_tokens,
    }
