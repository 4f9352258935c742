"""A pool at run time: its settings and everything the picker knows about its replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from picker.request.role import Role
from picker.settings import PoolSettings
from picker.state.cache.index import CacheIndex
from picker.state.endpoints import PoolState
from picker.state.sessions import Sessions
from policies.routing.spec import PolicySpec
from policies.routing.types import RoutingPolicy


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


@dataclass(slots=True)
class PoolRuntime:
    """One pool's live state. Settings are replaced at a reload; the state stays."""

    settings: PoolSettings
    state: PoolState
    cache: CacheIndex
    sessions: Sessions
    profiles: tuple[Profile, ...]
    """In the order of the choices; the last one answers the client."""

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self.settings.name

    def reset(self, slot: int) -> None:
        """The slot is free, or has another owner: forget what is known by slot."""
        self.cache.reset(slot)
        for profile in self.profiles:
            profile.policy.reset(slot)

    def snapshot(self) -> list[dict[str, object]]:
        """What the policies have learned, as JSON data."""
        return [
            {
                "role": profile.role.value,
                "name": profile.spec.name,
                "params": profile.spec.params,
                "learned": learned,
            }
            for profile in self.profiles
            if (learned := profile.policy.snapshot())
        ]

    def restore(self, snapshot: object) -> None:
        """Take over a `snapshot` as far as it is of the same policies; ignore anything else."""
        for profile in self.profiles:
            whose = (profile.role.value, profile.spec.name, profile.spec.params)
            for saved in snapshot if isinstance(snapshot, list) else ():
                match saved:
                    case {"role": role, "name": name, "params": params, "learned": dict(learned)}:
                        if (role, name, params) == whose:
                            profile.policy.restore(learned)
