"""All pools of the configuration, in step with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gateway.pools.build import build_pool
from gateway.pools.types import Pool, PoolConfig, ReplicaStatus
from picker.state.endpoints import EndpointSpec


class Fleet:
    """Starts, replaces and stops pools; ``on_change`` hears of every change of endpoints."""

    def __init__(self, log_dir: Path, on_change: Callable[[], None]) -> None:
        self._log_dir = log_dir
        self._on_change = on_change
        self._pools: dict[str, Pool] = {}

    async def reconfigure(self, configs: Iterable[PoolConfig]) -> None:
        """Go towards these pools; one whose type has changed is replaced."""
        wanted = {config.name: config for config in configs}
        gone = [self._pools.pop(name) for name in list(self._pools) if name not in wanted]
        for name, config in wanted.items():
            pool = self._pools.get(name)
            if pool is not None:
                try:
                    pool.reconfigure(config)
                    continue
                except TypeError:
                    gone.append(pool)
            pool = build_pool(config, on_change=self._on_change, log_dir=self._log_dir)
            self._pools[name] = pool
            await pool.start()
        await asyncio.gather(*(pool.stop() for pool in gone))

    async def stop(self) -> None:
        """End everything that runs."""
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))

    def endpoints(self) -> dict[str, list[EndpointSpec]]:
        """Endpoints by pool, draining ones among them."""
        return {name: list(pool.endpoints()) for name, pool in self._pools.items()}

    def status(self) -> dict[str, tuple[ReplicaStatus, ...]]:
        """Every replica by pool."""
        return {name: pool.status() for name, pool in self._pools.items()}

    def observe_load(self, in_flight: Mapping[tuple[str, str], int]) -> None:
        """Requests in flight by pool and address, as pickers report that know who is draining."""
        for name, pool in self._pools.items():
            for spec in pool.endpoints():
                if spec.draining and not in_flight.get((name, spec.address)):
                    pool.drained(spec.address)
