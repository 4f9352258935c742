"""The endpoints as pickers and Envoy are to see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.pools.handover import Handover
from picker.state.spec import EndpointChanges, EndpointKey, EndpointSpec, changes_between


class Membership:
    """What providers report, corrected: an endpoint that a person has taken out counts as
    draining, and one that is needed until its replacement is healthy does not."""

    def __init__(self) -> None:
        self._provided: dict[str, dict[str, EndpointSpec]] = {}
        """By pool and address."""
        self._published: dict[str, dict[str, EndpointSpec]] = {}
        """By pool and address, as of the last `publish`."""
        self._held: set[EndpointKey] = set()
        self._kept: set[EndpointKey] = set()
        self._handover = Handover()

    @property
    def hands_over(self) -> bool:
        """Some endpoints serve until others are healthy: `publish` is to be called again soon."""
        return bool(self._kept)

    def apply(self, changes: EndpointChanges) -> None:
        """Take over what a provider reports."""
        changes.apply_to(self._provided.setdefault(changes.pool, {}))

    def hold(self, pool: str, address: str, *, held: bool) -> None:
        """Send an endpoint no new requests, or some again."""
        (self._held.add if held else self._held.discard)((pool, address))

    def publish(
        self, healthy: Callable[[EndpointKey], bool], now_s: float
    ) -> list[EndpointChanges]:
        """What has changed since the last call, as pickers and Envoy are to see it."""
        by_pool = {pool: specs.values() for pool, specs in self._provided.items()}
        self._kept = self._handover.keep(by_pool, healthy, now_s)
        changes = []
        for pool, specs in by_pool.items():
            seen = [self._corrected(pool, spec) for spec in specs]
            change = changes_between(pool, self._published.get(pool, {}), seen)
            self._published[pool] = {spec.address: spec for spec in seen}
            if change:
                changes.append(change)
        for pool in [pool for pool, specs in self._provided.items() if not specs]:
            del self._provided[pool], self._published[pool]
        return changes

    def endpoints(self) -> dict[str, list[EndpointSpec]]:
        """By pool, sorted by address, as of the last `publish`."""
        return {
            pool: [specs[address] for address in sorted(specs)]
            for pool, specs in self._published.items()
        }

    def leaving(self) -> list[EndpointKey]:
        """Endpoints that are to go when they have no request in flight: every reader of `publish`
        knows, or is about to know, that they are draining."""
        return [
            (pool, address)
            for pool, specs in self._published.items()
            for address, spec in specs.items()
            if spec.draining and self._provided[pool].get(address) == spec
        ]

    def _corrected(self, pool: str, spec: EndpointSpec) -> EndpointSpec:
        one = (pool, spec.address)
        draining = one in self._held or (spec.draining and one not in self._kept)
        return spec if spec.draining == draining else replace(spec, draining=draining)
