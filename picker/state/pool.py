"""A pool at run time: its settings and everything the picker knows about its replicas."""

from __future__ import annotations

from dataclasses import dataclass

from picker.settings import PoolSettings
from picker.state.cache.approximate import PrefixIndex
from picker.state.endpoints import PoolState
from picker.state.sessions import Sessions


@dataclass(slots=True)
class PoolRuntime:
    """One pool's live state. Settings are replaced at a reload; the state stays."""

    settings: PoolSettings
    state: PoolState
    prefix: PrefixIndex
    sessions: Sessions

    @property
    def name(self) -> str:
        return self.settings.name
