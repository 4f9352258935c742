"""When all endpoints of a pool are replaced at once, the old ones serve until a new one can."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from picker.state.endpoints import EndpointSpec

Endpoint = tuple[str, str]
"""Pool and address."""

LONGEST_S: Final = 10.0
"""A replacement that is not healthy by then does not keep the old endpoints any longer."""


class Handover:
    """Decides which leaving endpoints must not drain yet."""

    def __init__(self) -> None:
        self._since_s: dict[Endpoint, float] = {}

    def keep(
        self,
        endpoints: Mapping[str, Iterable[EndpointSpec]],
        healthy: Collection[Endpoint],
        now_s: float,
    ) -> set[Endpoint]:
        """Draining endpoints of pools in which nothing that stays is healthy, for a while."""
        kept: set[Endpoint] = set()
        leaving: set[Endpoint] = set()
        for pool, specs in endpoints.items():
            drains = [(pool, spec.address) for spec in specs if spec.draining]
            stays = [(pool, spec.address) for spec in specs if not spec.draining]
            leaving.update(drains)
            if drains and stays and not any(one in healthy for one in stays):
                kept.update(
                    one
                    for one in drains
                    if now_s - self._since_s.setdefault(one, now_s) < LONGEST_S
                )
        self._since_s = {one: at for one, at in self._since_s.items() if one in leaving}
        return kept
