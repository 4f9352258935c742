"""All pools of the configuration, in step with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gateway.config.schema.pools import StaticPool
from gateway.pools.provider import Pool, PoolConfig, ReplicaStatus
from gateway.pools.providers.build import build_pool
from picker.state.endpoints import EndpointSpec


class Fleet:
    """Starts, replaces and stops pools; ``on_change`` hears of every change of endpoints."""

    def __init__(self, log_dir: Path, on_change: Callable[[], None]) -> None:
        self._log_dir = log_dir
        self._on_change = on_change
        self._pools: dict[str, Pool] = {}
        self._configs: dict[str, PoolConfig] = {}
        self._leaving: set[str] = set()
        """Pools that are gone from the configuration, and still finish their requests."""
        self._ending: set[asyncio.Task[None]] = set()

    async def reconfigure(self, configs: Iterable[PoolConfig]) -> None:
        """Go towards these pools. One that is left out drains first; one whose type has changed
        is replaced at once."""
        wanted = {config.name: config for config in configs}
        for name in self._pools.keys() - wanted.keys() - self._leaving:
            await self._leave(name)
        for name, config in wanted.items():
            self._leaving.discard(name)
            pool = self._pools.get(name)
            if pool is not None:
                try:
                    pool.reconfigure(config)
                except TypeError:
                    del self._pools[name]
                    await pool.stop()
            if name not in self._pools:
                pool = build_pool(config, on_change=self._on_change, log_dir=self._log_dir)
                self._pools[name] = pool
                await pool.start()
            self._configs[name] = config

    async def stop(self) -> None:
        """End everything that runs."""
        await asyncio.gather(*self._ending, *(pool.stop() for pool in self._pools.values()))

    def endpoints(self) -> dict[str, list[EndpointSpec]]:
        """Endpoints by pool, draining ones among them."""
        return {name: list(pool.endpoints()) for name, pool in self._pools.items()}

    def status(self) -> dict[str, tuple[ReplicaStatus, ...]]:
        """Every replica by pool."""
        return {name: pool.status() for name, pool in self._pools.items()}

    def observe_load(self, in_flight: Mapping[tuple[str, str], int]) -> None:
        """Requests in flight by pool and address, as pickers report that know who is draining."""
        for name, pool in list(self._pools.items()):
            for spec in pool.endpoints():
                if spec.draining and not in_flight.get((name, spec.address)):
                    pool.drained(spec.address)
            if name in self._leaving and not pool.status():
                self._leaving.discard(name)
                del self._pools[name], self._configs[name]
                ending = asyncio.create_task(pool.stop())
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
                self._on_change()

    async def _leave(self, name: str) -> None:
        config, pool = self._configs[name], self._pools[name]
        if isinstance(config, StaticPool):  # not ours to end; streams go on without us
            del self._pools[name], self._configs[name]
            await pool.stop()
            return
        self._leaving.add(name)
        pool.reconfigure(config.model_copy(update={"replicas": 0}))
