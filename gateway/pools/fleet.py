"""The providers of all pools, in step with the configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Final

from gateway.pools.provider import MakeProvider, PoolConfig, Provider, ReplicaRecord
from picker.state.spec import EndpointChanges, EndpointSpec, changes_between

_LOG: Final = logging.getLogger("penstock.pools")


class Fleet:
    """Makes, reconfigures and ends providers. The `EndpointSource` of all their endpoints.

    A pool that is gone from the configuration drains before it ends. A pool of which the kind has
    changed has two providers for a while: the old one serves until the new one has an endpoint,
    then it drains.
    """

    def __init__(self, make: MakeProvider) -> None:
        self._make = make
        self._providers: dict[str, Provider] = {}
        """By pool: what the configuration asks for."""
        self._leaving: dict[Provider, tuple[str, asyncio.Task[None]]] = {}
        """With its pool, and the task that waits until it has drained."""
        self._ending: set[asyncio.Task[None]] = set()
        self._unread: set[str] = set()
        """Pools of which the reader of `changes` has not seen the latest endpoints."""
        self._news = asyncio.Event()

    async def reconfigure(self, configs: Iterable[PoolConfig]) -> None:
        """Go towards these pools."""
        wanted = {config.name: config for config in configs}
        for name in self._providers.keys() - wanted.keys():
            self._let_go(name, self._providers.pop(name))
        for name, config in wanted.items():
            before = self._providers.get(name)
            provider = self._taken_over(config) or await self._made(config)
            self._providers[name] = provider
            if before is not None and before is not provider:
                self._let_go(name, before)
            self._note(name)

    async def stop(self) -> None:
        """End everything that runs, without draining."""
        leaving, self._leaving = self._leaving, {}
        for _, task in leaving.values():
            task.cancel()
        providers = (*self._providers.values(), *leaving)
        await asyncio.gather(*(provider.stop() for provider in providers))
        if self._ending:
            await asyncio.wait(self._ending)

    async def changes(self) -> AsyncIterator[EndpointChanges]:
        """See EndpointSource. For one reader."""
        seen: dict[str, dict[str, EndpointSpec]] = {}
        while True:
            while not self._unread:
                await self._news.wait()
            name = min(self._unread)
            self._unread.discard(name)
            endpoints = self._endpoints(name)
            changes = changes_between(name, seen.get(name, {}), endpoints.values())
            seen[name] = endpoints
            if changes:
                yield changes

    def replicas(self) -> dict[str, tuple[ReplicaRecord, ...]]:
        """Every replica by pool."""
        found: dict[str, tuple[ReplicaRecord, ...]] = {}
        for name, provider in self._all():
            found[name] = (*found.get(name, ()), *provider.replicas())
        return found

    def drained(self, pool: str, address: str) -> None:
        """See Provider."""
        for name, provider in self._all():
            if name == pool:
                provider.drained(address)

    def _all(self) -> list[tuple[str, Provider]]:
        leaving = [(name, provider) for provider, (name, _) in self._leaving.items()]
        return [*self._providers.items(), *leaving]

    def _endpoints(self, pool: str) -> dict[str, EndpointSpec]:
        """By address; one that drains for one provider and serves for another serves."""
        found: dict[str, EndpointSpec] = {}
        for name, provider in self._all():
            for spec in provider.endpoints() if name == pool else ():
                if spec.address not in found or found[spec.address].draining:
                    found[spec.address] = spec
        return found

    def _taken_over(self, config: PoolConfig) -> Provider | None:
        """The provider that there is for this pool, also one that leaves, if it can do it."""
        for name, provider in self._all():
            if name == config.name and provider.reconfigure(config):
                if provider in self._leaving:
                    self._leaving.pop(provider)[1].cancel()
                return provider
        return None

    async def _made(self, config: PoolConfig) -> Provider:
        provider = self._make(config, partial(self._note, config.name))
        await provider.start()
        return provider

    def _note(self, pool: str) -> None:
        """Something about a pool has changed: whoever waits for that looks again."""
        self._unread.add(pool)
        self._news.set()
        self._news = asyncio.Event()

    def _let_go(self, pool: str, provider: Provider) -> None:
        task = asyncio.create_task(self._end(pool, provider), name=f"end pool {pool}")
        self._leaving[provider] = (pool, task)
        self._ending.add(task)
        task.add_done_callback(self._ended)

    async def _end(self, pool: str, provider: Provider) -> None:
        while not self._is_succeeded(pool):
            await self._news.wait()
        await provider.leave()
        del self._leaving[provider]
        self._note(pool)
        await provider.stop()

    def _is_succeeded(self, pool: str) -> bool:
        """Whether the pool's provider that left can go: another one serves, or none will."""
        successor = self._providers.get(pool)
        if successor is None or not successor.replicas():
            return True
        return any(not spec.draining for spec in successor.endpoints())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("%s has failed", task.get_name(), exc_info=error)
