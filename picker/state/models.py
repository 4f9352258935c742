"""Served models and LoRA adapters of a pool, by endpoint slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.routing.types import AdapterView, Bools, Slots


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of a replica's /v1/models."""

    id: str
    parent: str | None
    """Base model, when this is an adapter."""
    max_model_tokens: int | None
    """Longest context, prompt and answer, in tokens; None = not reported."""
    root: str | None = None
    """Where the engine has it from, a path or a name; None = not reported."""
    created: int | None = None
    """Seconds since the epoch; None = not reported."""


class ServedModels:
    """Which slot serves which model and adapter, and which adapters are resident in the engine.

    Models stay known after the last replica that served them is gone, so that "no replica can
    serve it now" (503) and "there is no such model" (404) stay different. Views that are handed out
    are live: they change in place with the next scrape.
    """

    def __init__(self) -> None:
        self.revisions: Slots = np.zeros(0, np.intp)
        """By slot: grows when the list of models that the slot serves has changed."""
        self._slots = 0
        self._known: dict[str, ServedModel] = {}
        self._views: dict[str, AdapterView] = {}
        self._served_by: dict[int, frozenset[str]] = {}
        self._listed_by: dict[int, tuple[str, ...]] = {}
        """By slot: the same in the order of the list."""
        self._resident_by: dict[int, frozenset[str]] = {}
        self._declared: set[int] = set()
        """Slots whose models an operator has declared, and not the endpoint."""

    def grow(self, slots: int) -> None:
        """Make room for ``slots`` slots; views handed out before are no longer live."""
        for name, view in self._views.items():
            self._views[name] = AdapterView(
                *(_grown(flags, slots) for flags in (view.served, view.running, view.waiting))
            )
        self.revisions = np.concatenate([self.revisions, np.zeros(slots - self._slots, np.intp)])
        self._slots = slots

    def is_listed(self, slot: int) -> bool:
        """The endpoint itself has listed the models that ``slot`` serves."""
        return slot in self._served_by and slot not in self._declared

    def set_declared(self, slot: int, names: Sequence[str]) -> None:
        """``slot`` serves these base models, as an operator says."""
        self.set_served(slot, [ServedModel(name, None, None) for name in names])
        self._declared.add(slot)

    def set_served(self, slot: int, models: Sequence[ServedModel]) -> None:
        """Replace the list of models that ``slot`` serves."""
        self._declared.discard(slot)
        for model in models:
            before = self._known.get(model.id)
            self._known[model.id] = model if before is None else _merged(before, model)
        served = frozenset(model.id for model in models)
        self._listed_by[slot] = tuple(dict.fromkeys(model.id for model in models))
        before_ids = self._served_by.get(slot, frozenset())
        self._served_by[slot] = served
        self.revisions[slot] += served != before_ids
        for name in before_ids - served:
            self._views[name].served[slot] = False
        for name in served - before_ids:
            self._view(name).served[slot] = True

    def doubt(self, slot: int, model: str) -> None:
        """``slot`` has denied a model of its list: it has no part in the model until a list says so
        again."""
        served = self._served_by.get(slot, frozenset())
        if model in served:
            self._served_by[slot] = served - {model}
            self._views[model].served[slot] = False
            self.revisions[slot] += 1

    def set_resident(self, slot: int, running: frozenset[str], waiting: frozenset[str]) -> None:
        """Replace what the engine of ``slot`` says about adapters running and waiting."""
        now = running | waiting
        for name in self._resident_by.get(slot, frozenset()) - now:
            view = self._views[name]
            view.running[slot] = view.waiting[slot] = False
        for name in now:
            view = self._view(name)
            view.running[slot] = name in running
            view.waiting[slot] = name in waiting
        self._resident_by[slot] = now

    def expect_resident(self, slot: int, adapter: str, *, room: bool) -> bool:
        """A request for ``adapter`` was sent to ``slot``; True when it was not resident before.

        Until the next scrape the adapter counts as running there (as waiting, without ``room``),
        so that a burst for one adapter does not load it everywhere.
        """
        resident = self._resident_by.get(slot, frozenset())
        if adapter in resident:
            return False
        view = self._view(adapter)
        (view.running if room else view.waiting)[slot] = True
        self._resident_by[slot] = resident | {adapter}
        return True

    def clear(self, slot: int) -> None:
        """The endpoint of ``slot`` is gone."""
        self.set_served(slot, ())
        del self._served_by[slot], self._listed_by[slot]
        self.set_resident(slot, frozenset(), frozenset())

    def adapter(self, model: str) -> AdapterView | None:
        """Live view of an adapter; None when ``model`` is no adapter that we know."""
        known = self._known.get(model)
        if known is None or known.parent is None:
            return None
        return self._view(model)

    def serving(self, model: str) -> Bools:
        """Live flags by slot: the slot lists ``model``."""
        view = self._views.get(model)
        return np.zeros(self._slots, np.bool_) if view is None else view.served

    def any_served(self) -> Bools:
        """Flags by slot: the slot has a model."""
        flags = np.zeros(self._slots, np.bool_)
        flags[[slot for slot, served in self._served_by.items() if served]] = True
        return flags

    def known(self) -> dict[str, ServedModel]:
        """Every model that any replica ever listed, by id; do not change it."""
        return self._known

    def served_by(self, slot: int) -> list[str]:
        """Models and adapters that ``slot`` lists, sorted."""
        return sorted(self._served_by.get(slot, ()))

    def served_now(self, slots: Iterable[int]) -> list[ServedModel]:
        """Models that endpoints list now: in the order of these slots, each in the order of its
        list."""
        lists = (self._listed_by.get(slot, ()) for slot in slots)
        names = dict.fromkeys(name for listed in lists for name in listed)
        return [self._known[name] for name in names]

    def _view(self, name: str) -> AdapterView:
        view = self._views.get(name)
        if view is None:
            view = AdapterView(*(np.zeros(self._slots, np.bool_) for _ in range(3)))
            self._views[name] = view
        return view


def _merged(before: ServedModel, now: ServedModel) -> ServedModel:
    """``now`` with what only ``before`` has. Engines give another time of creation at each read:
    the first one counts."""
    times = [one.created for one in (before, now) if one.created is not None]
    return replace(
        now,
        max_model_tokens=now.max_model_tokens or before.max_model_tokens,
        root=now.root or before.root,
        created=min(times, default=None),
    )


def _grown(flags: Bools, slots: int) -> Bools:
    grown = np.zeros(slots, np.bool_)
    grown[: flags.size] = flags
    return grown
