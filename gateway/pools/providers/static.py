"""Static pools: addresses that somebody else runs. Host names are resolved again and again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.config.schema.pools import StaticPool
from gateway.config.schema.terms import is_ip, join_endpoint, split_endpoint
from gateway.pools.provider import OnChange, PoolConfig, ReplicaRecord, ReplicaState
from picker.state.spec import EndpointSpec

_LOG: Final = logging.getLogger("penstock.pools")

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Host name to IP addresses. Raises OSError when there are none."""


async def resolve_host(host: str) -> Sequence[str]:
    """The addresses of a host name by the system's resolver; IPv4 when there is any, else IPv6."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = sorted({str(address[0]) for *_, address in found})
    return [a for a in addresses if ":" not in a] or addresses


class StaticEndpoints:
    """A static pool."""

    def __init__(
        self, config: StaticPool, *, on_change: OnChange, resolve: Resolve = resolve_host
    ) -> None:
        self._config = config
        self._on_change = on_change
        self._resolve = resolve
        self._addresses: dict[str, tuple[str, ...]] = {}
        """By configured endpoint; a name that stops resolving keeps its last addresses."""
        self._errors: dict[str, str] = {}
        self._draining: dict[str, asyncio.TimerHandle] = {}
        self._announced: tuple[EndpointSpec, ...] = ()
        self._wake = asyncio.Event()
        """Set when the configuration has changed."""
        self._one_drained = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See Provider."""
        self._follow_literals()
        self._update()
        self._task = asyncio.create_task(self._follow_names(), name=f"resolve {self._config.name}")

    async def stop(self) -> None:
        """See Provider."""
        for timer in self._draining.values():
            timer.cancel()
        self._draining.clear()
        self._addresses.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            following, self._task = self._task, None
            if not following.cancelled():
                following.result()  # raises what ended it
        self._update()

    def endpoints(self) -> tuple[EndpointSpec, ...]:
        """See Provider."""
        active = {a for addresses in self._addresses.values() for a in addresses}
        specs = [EndpointSpec(address) for address in active]
        specs += [EndpointSpec(a, draining=True) for a in self._draining if a not in active]
        return tuple(sorted(specs, key=lambda spec: spec.address))

    def reconfigure(self, config: PoolConfig) -> bool:
        """See Provider."""
        if not isinstance(config, StaticPool):
            return False
        self._config = config
        if self._task is None:
            return True
        for gone in self._addresses.keys() - set(config.endpoints):
            del self._addresses[gone]
            self._errors.pop(gone, None)
        self._follow_literals()
        self._update()
        self._wake.set()
        return True

    def scale(self, replicas: int) -> bool:
        """See Provider."""
        return False

    async def leave(self) -> None:
        """See Provider."""
        self.reconfigure(self._config.model_copy(update={"endpoints": ()}))
        while self._draining:
            self._one_drained.clear()
            await self._one_drained.wait()

    def drained(self, address: str) -> None:
        """See Provider."""
        timer = self._draining.pop(address, None)
        if timer is not None:
            timer.cancel()
            self._one_drained.set()
            self._update()

    def replicas(self) -> tuple[ReplicaRecord, ...]:
        """See Provider."""
        found = []
        for endpoint in self._config.endpoints:
            error = self._errors.get(endpoint)
            addresses = self._addresses.get(endpoint, ())
            if not addresses:
                found.append(
                    ReplicaRecord(endpoint, ReplicaState.UNRESOLVED, None, last_error=error)
                )
            found += [
                ReplicaRecord(endpoint, ReplicaState.ACTIVE, address, last_error=error)
                for address in addresses
            ]
        found += [
            ReplicaRecord(spec.address, ReplicaState.DRAINING, spec.address)
            for spec in self.endpoints()
            if spec.draining
        ]
        return tuple(found)

    def _follow_literals(self) -> None:
        for endpoint in self._config.endpoints:
            if _is_literal(endpoint):
                self._addresses[endpoint] = (endpoint,)

    async def _follow_names(self) -> None:
        while True:
            self._wake.clear()
            names = [e for e in self._config.endpoints if not _is_literal(e)]
            await asyncio.gather(*(self._follow(endpoint) for endpoint in names))
            self._update()
            try:
                async with asyncio.timeout(self._config.resolve_interval_s if names else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _follow(self, endpoint: str) -> None:
        host, port = split_endpoint(endpoint)
        try:
            found = await self._resolve(host)
        except (OSError, UnicodeError) as error:  # UnicodeError: no valid host name
            reason = error.strerror if isinstance(error, OSError) else None
            message = f"{host} cannot be resolved: {reason or error}"
            if self._errors.get(endpoint) != message:
                kept = ", ".join(self._addresses.get(endpoint, ())) or "none"
                _LOG.warning(
                    "pool %s: %s; last known addresses: %s", self._config.name, message, kept
                )
            self._errors[endpoint] = message
            return
        self._errors.pop(endpoint, None)
        if endpoint in self._config.endpoints:  # it may have been removed meanwhile
            self._addresses[endpoint] = tuple(join_endpoint(ip, port) for ip in found)

    def _update(self) -> None:
        """Begin to drain what has left, and announce any change."""
        active = {a for addresses in self._addresses.values() for a in addresses}
        before = {spec.address for spec in self._announced if not spec.draining}
        if self._task is not None:
            loop = asyncio.get_running_loop()
            for address in before - active:
                self._draining[address] = loop.call_later(
                    self._config.drain_timeout_s, self.drained, address
                )
        for address in active & self._draining.keys():
            self._draining.pop(address).cancel()
        now = self.endpoints()
        if now != self._announced:
            self._announced = now
            self._on_change()


def _is_literal(endpoint: str) -> bool:
    return is_ip(split_endpoint(endpoint)[0])
