"""Endpoints of a pool: slots, signals, health and freshness."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from picker.request.role import Role
from picker.seams.peers import EndpointKeys, endpoint_keys
from picker.state.lack import Lack
from picker.state.models import ServedModel, ServedModels
from picker.state.spec import EndpointChanges, EndpointSpec, SlotChanges, changes_between
from picker.state.unknown import fill_in
from policies.routing.types import Bools, Floats, PoolView, Slots

NO_ANSWER_YET: Final = "no answer yet"
_FIRST_SLOTS = 8
_NEVER_S = -np.inf
_NO_SLOTS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Signals:
    """What one scrape of an engine has found."""

    waiting_requests: float
    running_requests: float
    kv_usage: float
    """0 to 1."""
    kv_capacity_tokens: float | None
    kv_block_tokens: int | None
    max_loras: int
    running_adapters: frozenset[str]
    waiting_adapters: frozenset[str]
    first_tokens: float | None = None
    """Requests that have had their first token since the engine began; None: it does not say."""


class PoolState:
    """What is known about the endpoints of one pool.

    An endpoint keeps its slot while it lives; the slot of a removed one is used again, under a
    new generation. ``view`` is one object for the life of the pool; its columns are replaced
    when slots run out.
    """

    def __init__(self, name: str, *, stale_after_s: float) -> None:
        self.name = name
        self.stale_after_s = stale_after_s
        self.view = PoolView.zeros(_FIRST_SLOTS)
        self.specs: dict[str, EndpointSpec] = {}
        """By address; `apply` changes it, nobody else."""
        self.slot_of: dict[str, int] = {}
        self.models = ServedModels()
        self.models.grow(_FIRST_SLOTS)
        self.kv_block_tokens: list[int] = [0] * _FIRST_SLOTS
        """By slot: tokens of a KV block, 0 = unknown."""
        self._addresses: list[str] = [""] * _FIRST_SLOTS
        self.generations: NDArray[np.int64] = np.zeros(_FIRST_SLOTS, np.int64)
        """By slot: changes whenever the slot goes to another endpoint."""
        self._by_key: tuple[EndpointKeys, Slots] | None = None
        """Keys of the endpoints in order, and their slots; None: to be made."""
        self._free = list(range(_FIRST_SLOTS - 1, -1, -1))
        self._slots_by_host: dict[str, set[int]] = {}
        self._failures: dict[int, str] = {}
        self._doubted: set[int] = set()
        """Slots of those that failed in the eyes of the data plane alone."""
        self._lacks: dict[int, dict[Lack, str]] = {}
        """By slot: what is missing of an endpoint that is not out, and why."""
        self._unknown: Bools = np.zeros(_FIRST_SLOTS, np.bool_)
        """By slot: the endpoint answers and does not report its load."""
        self._failed_s: list[float] = [_NEVER_S] * _FIRST_SLOTS
        """By slot: when it was last marked failed."""
        self._answered_s: list[float] = [_NEVER_S] * _FIRST_SLOTS
        """By slot: when it last answered, with signals or without."""
        self._signals_s: Floats = np.full(_FIRST_SLOTS, _NEVER_S)
        """By slot: when its signals came."""
        self._eligible_s: Floats = np.full(_FIRST_SLOTS, _NEVER_S)
        """By slot: when it last answered, or never when it may get no requests."""
        self._able = {role: np.ones(_FIRST_SLOTS, np.bool_) for role in Role}
        """By role and slot: the endpoint can do that part of a request."""
        self._has_roles = False
        """Some endpoint cannot do everything."""

    @property
    def slots(self) -> int:
        """Allocated slots: the length of all columns."""
        return len(self._addresses)

    def address_of(self, slot: int) -> str:
        """Address of the endpoint in ``slot``; raises KeyError when the slot is free."""
        address = self._addresses[slot]
        if not address:
            raise KeyError(f"pool {self.name}: no endpoint in slot {slot}")
        return address

    def addresses_of(self, slots: Slots) -> tuple[str, ...]:
        """Addresses of the endpoints in these slots; "" for one that is free."""
        addresses = self._addresses
        return tuple([addresses[slot] for slot in slots.tolist()])

    def slots_of(self, keys: EndpointKeys) -> Slots:
        """Slots of endpoints by their keys, -1 where there is none."""
        if self._by_key is None:
            known, slots = endpoint_keys(self.slot_of), np.array([*self.slot_of.values()], np.intp)
            order = known.argsort()
            self._by_key = known[order], slots[order]
        known, slots = self._by_key
        if not known.size:
            return np.full(keys.size, -1)
        at = np.minimum(known.searchsorted(keys), known.size - 1)
        return np.where(known[at] == keys, slots[at], -1)

    def generation_of(self, slot: int) -> int:
        """See `generations`."""
        return int(self.generations[slot])

    def apply(self, changes: EndpointChanges) -> SlotChanges:
        """Add, change and remove endpoints. Deletes come first, so that their slots are free for
        the new endpoints."""
        removed = {
            address: self._release(address)
            for address in changes.deletes
            if address in self.slot_of
        }
        added = {}
        for spec in changes.upserts:
            if spec.address not in self.slot_of:
                added[spec.address] = self._allot(spec.address)
            self.specs[spec.address] = spec
            slot = self.slot_of[spec.address]
            for role, able in self._able.items():
                able[slot] = spec.role in (Role.BOTH, role)
            self._refresh(slot)
        self._has_roles = any(spec.role is not Role.BOTH for spec in self.specs.values())
        return SlotChanges(added, removed)

    def sync(self, specs: Iterable[EndpointSpec]) -> SlotChanges:
        """Make the endpoints be these: `changes_between`, applied."""
        return self.apply(changes_between(self.name, self.specs, specs))

    def in_subset(self, subset: Iterable[str]) -> Slots:
        """Slots of the endpoints that are named in ``subset``, by ``ip:port`` or by ip alone, in
        order. Takes time in proportion to the subset, not to the pool."""
        found: set[int] = set()
        for name in subset:
            slot = self.slot_of.get(name)
            if slot is not None:
                found.add(slot)
            found |= self._slots_by_host.get(name, _NO_SLOTS)
        return np.array(sorted(found), np.intp)

    def apply_signals(
        self, address: str, signals: Signals, now_s: float, *, began_s: float | None = None
    ) -> None:
        """Signals of a scrape that ended at ``now_s``. An unknown address is ignored (it may have
        been removed while the scrape was under way), and so is a scrape that began before the
        endpoint was marked failed: it may have been answered by what is gone."""
        slot = self.slot_of.get(address)
        if slot is None or (began_s is not None and began_s < self._failed_s[slot]):
            return
        view = self.view
        view.waiting_requests[slot] = signals.waiting_requests
        view.running_requests[slot] = signals.running_requests
        engine_has = signals.waiting_requests + signals.running_requests
        view.foreign_requests[slot] = max(0.0, engine_has - view.in_flight_requests.item(slot))
        view.kv_usage[slot] = signals.kv_usage
        if signals.kv_capacity_tokens is not None:
            view.kv_capacity_tokens[slot] = signals.kv_capacity_tokens
        if signals.kv_block_tokens is not None:
            self.kv_block_tokens[slot] = signals.kv_block_tokens
        view.lora_slots[slot] = signals.max_loras
        view.lora_active[slot] = len(signals.running_adapters | signals.waiting_adapters)
        self.models.set_resident(slot, signals.running_adapters, signals.waiting_adapters)
        self._signals_s[slot] = now_s
        self._unknown[slot] = False
        self._has(slot, Lack.SIGNALS)
        self._answers(slot, now_s)

    def apply_models(self, address: str, models: Sequence[ServedModel]) -> None:
        """What the endpoint lists under /v1/models; an unknown address is ignored."""
        slot = self.slot_of.get(address)
        if slot is not None:
            self.models.set_served(slot, models)
            self._has(slot, Lack.MODELS)

    def apply_lack(
        self,
        address: str,
        lack: Lack,
        reason: str,
        now_s: float,
        *,
        began_s: float | None = None,
        declared: Sequence[str] = (),
    ) -> None:
        """What a read that ended at ``now_s`` could not find, and why; an unknown address is
        ignored. ``declared``: the models that the endpoint has while it lists none."""
        slot = self.slot_of.get(address)
        if slot is None or (began_s is not None and began_s < self._failed_s[slot]):
            return
        self._lacks.setdefault(slot, {})[lack] = reason
        match lack:
            case Lack.SIGNALS:
                if now_s - self._signals_s[slot] > self.stale_after_s:
                    self._unknown[slot] = True
                self._answers(slot, now_s)
            case Lack.MODELS if not self.models.is_listed(slot):
                self.models.set_declared(slot, declared)

    def _has(self, slot: int, lack: Lack) -> None:
        if slot in self._lacks:
            self._lacks[slot].pop(lack, None)

    def _answers(self, slot: int, now_s: float) -> None:
        self._answered_s[slot] = now_s
        self._failures.pop(slot, None)
        self._doubted.discard(slot)
        self._has(slot, Lack.ANSWER)
        self._refresh(slot)
        self._fill_in()

    def _fill_in(self) -> None:
        """Bring what is not known up to date."""
        if self._unknown.any():
            known = np.isfinite(self._signals_s) & ~self._unknown
            fill_in(self.view, self._unknown.nonzero()[0], known.nonzero()[0])

    def expect_adapter(self, address: str, adapter: str) -> None:
        """A request for ``adapter`` was sent to the endpoint: count it as resident at once."""
        slot = self.slot_of.get(address)
        if slot is None:
            return
        view = self.view
        room = bool(view.lora_active[slot] < view.lora_slots[slot])
        if self.models.expect_resident(slot, adapter, room=room):
            view.lora_active[slot] += 1

    def mark_failed(self, address: str, now_s: float, reason: str) -> None:
        """Nobody listens there, it is broken, or the data plane could not reach it: no candidate
        until it answers again."""
        slot = self.slot_of.get(address)
        if slot is not None:
            self._failures[slot] = reason
            self._doubted.discard(slot)
            self._failed_s[slot] = now_s
            self._answered_s[slot] = self._signals_s[slot] = _NEVER_S
            self._unknown[slot] = False
            self._refresh(slot)

    def doubt(self, address: str, now_s: float, reason: str) -> None:
        """The data plane could not reach it, or it broke off: as `mark_failed`, but it stays a last
        resort, since one request may do that to every replica, and others are not to be refused
        for it."""
        slot = self.slot_of.get(address)
        if slot is not None:
            is_out = slot in self._failures and slot not in self._doubted
            self.mark_failed(address, now_s, reason)
            if not is_out:
                self._doubted.add(slot)

    def healthy(self, now_s: float) -> Bools:
        """Flags by slot: known, not draining, not failed, has answered lately. When none is so,
        those that have been silent for too long: better a request that waits than a refusal."""
        healthy = self._eligible_s >= now_s - self.stale_after_s
        return healthy if healthy.any() else self._eligible_s > _NEVER_S

    def silent(self, now_s: float) -> Bools:
        """Flags by slot: it has answered once, and not lately."""
        return (self._eligible_s > _NEVER_S) & (self._eligible_s < now_s - self.stale_after_s)

    def without_signals(self) -> Bools:
        """Flags by slot: it answers, and does not report its load although it should."""
        flags = np.zeros(self.slots, np.bool_)
        unknown = self._unknown.nonzero()[0].tolist()
        flags[[slot for slot in unknown if self._lacks[slot][Lack.SIGNALS]]] = True
        return flags

    def responsive(self, now_s: float, model: str = "") -> Slots:
        """Slots of the candidates that are known to be well, in order; of those that list the
        ``model``, if there is one."""
        well = self._eligible_s >= now_s - self.stale_after_s
        if model:
            well &= self.models.serving(model)
        return well.nonzero()[0]

    def is_well(self, slot: int, now_s: float, model: str = "") -> bool:
        """Whether the slot is among those of `responsive`. Costs 1 us."""
        if slot >= self.slots or self._eligible_s.item(slot) < now_s - self.stale_after_s:
            return False
        return not model or self.models.serving(model).item(slot)

    def candidates(self, now_s: float) -> Slots:
        """Slots that may get requests: the healthy ones, in order."""
        return self.healthy(now_s).nonzero()[0]

    def last_resort(self) -> Slots:
        """Slots that may get a request which no candidate can serve: silent and doubted ones
        too."""
        able = self._eligible_s > _NEVER_S
        for slot in self._doubted:
            able[slot] = not self.specs[self._addresses[slot]].draining
        return able.nonzero()[0]

    def is_draining(self, slot: int) -> bool:
        """The endpoint lives, and gets nothing new."""
        return self.specs[self._addresses[slot]].draining and slot not in self._failures

    def in_role(self, candidates: Slots, role: Role) -> Slots:
        """Those of the candidates that can do this part of a request, or all of it, in order."""
        return candidates[self._able[role][candidates]] if self._has_roles else candidates

    def why_not(self, address: str, now_s: float) -> str | None:
        """Why the endpoint is no candidate, or only for want of a better one, for people; None
        when it is one."""
        slot = self.slot_of.get(address)
        if slot is None:
            return "unknown"
        if self.specs[address].draining:
            return "draining"
        if slot in self._failures:
            return self._failures[slot]
        age_s = now_s - self._answered_s[slot]
        if age_s <= self.stale_after_s:
            return None
        reason = self._lacks.get(slot, {}).get(Lack.ANSWER, "")
        if age_s == np.inf:
            return reason or NO_ANSWER_YET
        return f"no answer for {age_s:.1f} s{f' ({reason})' if reason else ''}"

    def why_no_models(self, address: str) -> str | None:
        """Why requests that name a model cannot go to the endpoint, for people; None when it has
        some."""
        slot = self.slot_of[address]
        if self.models.served_by(slot):
            return None
        reason = self._lacks.get(slot, {}).get(Lack.MODELS)
        if reason is None:
            return "GET /v1/models lists no model"
        return f"{reason} (of the pool, upstream.api_key sends a key, models says what it serves)"

    def models_problem(self) -> str:
        """Why some endpoint does not list its models; "" when none was asked in vain."""
        reasons = (lacks.get(Lack.MODELS, "") for lacks in self._lacks.values())
        return next(filter(None, reasons), "")

    def why_no_signals(self, address: str) -> str:
        """Why the load of an endpoint that answers is not known, for people; "" when it is, or is
        not expected to be."""
        slot = self.slot_of[address]
        return self._lacks[slot][Lack.SIGNALS] if self._unknown[slot] else ""

    def _allot(self, address: str) -> int:
        if not self._free:
            self._grow(self.slots * 2)
        slot = self._free.pop()
        self._addresses[slot] = address
        self.slot_of[address] = slot
        self._by_key = None
        for host in _hosts(address):
            self._slots_by_host.setdefault(host, set()).add(slot)
        return slot

    def _release(self, address: str) -> int:
        del self.specs[address]
        slot = self.slot_of.pop(address)
        self._by_key = None
        for host in _hosts(address):
            self._slots_by_host[host].discard(slot)
            if not self._slots_by_host[host]:
                del self._slots_by_host[host]
        for column in fields(self.view):
            getattr(self.view, column.name)[slot] = 0.0
        self.models.clear(slot)
        self.kv_block_tokens[slot] = 0
        self._addresses[slot] = ""
        self.generations[slot] += 1
        self._answered_s[slot] = self._signals_s[slot] = _NEVER_S
        self._failed_s[slot] = _NEVER_S
        self._eligible_s[slot] = _NEVER_S
        self._failures.pop(slot, None)
        self._doubted.discard(slot)
        self._lacks.pop(slot, None)
        self._unknown[slot] = False
        self._free.append(slot)
        return slot

    def _refresh(self, slot: int) -> None:
        barred = slot in self._failures or self.specs[self._addresses[slot]].draining
        self._eligible_s[slot] = _NEVER_S if barred else self._answered_s[slot]

    def _grow(self, slots: int) -> None:
        before = self.slots
        for column in fields(self.view):
            grown = np.zeros(slots)
            grown[:before] = getattr(self.view, column.name)
            setattr(self.view, column.name, grown)
        more = slots - before
        for role, able in self._able.items():
            self._able[role] = np.concatenate([able, np.ones(more, np.bool_)])
        self._eligible_s = np.concatenate([self._eligible_s, np.full(more, _NEVER_S)])
        self._signals_s = np.concatenate([self._signals_s, np.full(more, _NEVER_S)])
        self._unknown = np.concatenate([self._unknown, np.zeros(more, np.bool_)])
        self._answered_s += [_NEVER_S] * more
        self._failed_s += [_NEVER_S] * more
        self._addresses += [""] * more
        self.generations = np.concatenate([self.generations, np.zeros(more, np.int64)])
        self.kv_block_tokens += [0] * more
        self._free += range(slots - 1, before - 1, -1)
        self.models.grow(slots)


def _hosts(address: str) -> set[str]:
    """The names that a subset may use for the host of ``ip:port``: an IPv6 address with and
    without brackets."""
    host = address.rpartition(":")[0]
    return {host, host.strip("[]")}
