"""A pool at run time: its settings and everything the picker knows about its replicas."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from picker.request.role import Role
from picker.settings import PoolSettings
from picker.state.breakers import Breakers
from picker.state.cache.exact import ExactIndex
from picker.state.endpoints import PoolState
from picker.state.sessions import Sessions
from picker.state.shadow import Shadow
from policies.routing.spec import PolicySpec
from policies.routing.types import RoutingPolicy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Profile:
    """One choice that is made for each request of a pool."""

    role: Role
    spec: PolicySpec
    policy: RoutingPolicy
    """Built from ``spec``; it lives, with what it has learned, as long as the spec is equal."""

    @classmethod
    def of(cls, role: Role, spec: PolicySpec, before: Sequence[Profile] = ()) -> Profile:
        """One of those ``before`` if it is the same, else a new one. Raises PolicyError."""
        same = (one for one in before if (one.role, one.spec) == (role, spec))
        return next(same, None) or cls(role, spec, spec.build())

    @contextmanager
    def using(self) -> Iterator[RoutingPolicy]:
        """The policy, for what no request waits for: what it raises is logged, and must not end a
        worker."""
        try:
            yield self.policy
        except Exception:
            log.exception("policy %s failed", self.spec.name)


@dataclass(slots=True)
class PoolRuntime:
    """One pool's live state. Settings are replaced at a reload; the state stays."""

    settings: PoolSettings
    state: PoolState
    cache: ExactIndex
    sessions: Sessions
    profiles: tuple[Profile, ...]
    """In the order of the choices; the last one answers the client."""
    breakers: Breakers = field(default_factory=Breakers)
    shadow: Shadow | None = None
    """Asked beside the last of the profiles."""

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self.settings.name

    def reset(self, slot: int) -> None:
        """The slot is free, or has another owner: forget what is known by slot."""
        self.cache.reset(slot)
        self.breakers.reset(slot)
        for profile in self.profiles:
            with profile.using() as policy:
                policy.reset(slot)
        if self.shadow is not None:
            self.shadow.reset(slot)

    def snapshot(self) -> list[dict[str, object]]:
        """What the policies have learned, as JSON data; what is theirs by slot stands by address,
        since slots do not outlive a process."""
        address_of = {str(slot): address for address, slot in self.state.slot_of.items()}
        saved: list[dict[str, object]] = []
        for profile in self.profiles:
            with profile.using() as policy:
                if learned := policy.snapshot():
                    whose = {"role": profile.role.value, "name": profile.spec.name}
                    learned = _renamed(learned, address_of)
                    saved.append({**whose, "params": profile.spec.params, "learned": learned})
        return saved

    def restore(self, snapshot: object) -> None:
        """Take over a `snapshot` as far as it is of the same policies and of endpoints that are
        here; ignore anything else."""
        slot_of = {address: str(slot) for address, slot in self.state.slot_of.items()}
        for profile in self.profiles:
            whose = (profile.role.value, profile.spec.name, profile.spec.params)
            for saved in snapshot if isinstance(snapshot, list) else ():
                match saved:
                    case {"role": role, "name": name, "params": params, "learned": dict(learned)}:
                        if (role, name, params) == whose:
                            with profile.using() as policy:
                                policy.restore(_renamed(learned, slot_of))


def _renamed(learned: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """With other names for the entries under "slots"; those without one are left out."""
    slots = learned.get("slots")
    if not isinstance(slots, Mapping):
        return dict(learned)
    renamed = {names[slot]: value for slot, value in slots.items() if slot in names}
    return {**learned, "slots": renamed}
