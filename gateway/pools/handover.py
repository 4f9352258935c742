"""When all endpoints of a pool are replaced at once, the old ones serve until a new one can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from picker.state.spec import EndpointKey, EndpointSpec

LONGEST_S: Final = 10.0
"""A replacement that is not healthy by then does not keep the old endpoints any longer."""


class Handover:
    """Decides which leaving endpoints must not drain yet."""

    def __init__(self) -> None:
        self._since_s: dict[EndpointKey, float] = {}

    def keep(
        self,
        endpoints: Mapping[str, Iterable[EndpointSpec]],
        healthy: Callable[[EndpointKey], bool],
        now_s: float,
    ) -> set[EndpointKey]:
        """Draining endpoints of pools in which no endpoint that stays is healthy; each of them for
        at most `LONGEST_S`."""
        kept: set[EndpointKey] = set()
        leaving: set[EndpointKey] = set()
        for pool, specs in endpoints.items():
            drains = [(pool, spec.address) for spec in specs if spec.draining]
            if not drains:
                continue
            leaving.update(drains)
            stays = [(pool, spec.address) for spec in specs if not spec.draining]
            if stays and not any(healthy(one) for one in stays):
                kept.update(
                    one
                    for one in drains
                    if now_s - self._since_s.setdefault(one, now_s) < LONGEST_S
                )
        self._since_s = {one: at_s for one, at_s in self._since_s.items() if one in leaving}
        return kept
