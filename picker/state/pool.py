"""A pool at run time: its settings and everything the picker knows about its replicas."""

from __future__ import annotations

from dataclasses import dataclass

from picker.request.role import Role
from picker.settings import PoolSettings
from picker.state.cache.index import CacheIndex
from picker.state.endpoints import PoolState
from picker.state.sessions import Sessions
from policies.routing.types import RoutingPolicy


@dataclass(frozen=True, slots=True)
class Profile:
    """One choice that is made for each request of a pool."""

    role: Role
    policy: RoutingPolicy


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
