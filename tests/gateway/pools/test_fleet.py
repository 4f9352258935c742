"""The pools of a configuration that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.config.schema.pools import ProcessPool, StaticPool
from gateway.pools.fleet import Fleet
from gateway.pools.provider import OnChange, PoolConfig, Provider, ReplicaRecord, ReplicaState
from gateway.pools.providers.static import StaticEndpoints
from picker.state.spec import EndpointSpec

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


def static(name: str, *endpoints: str) -> StaticPool:
    return StaticPool(name=name, type="static", endpoints=endpoints)


def processes(name: str, replicas: int = 1) -> ProcessPool:
    return ProcessPool(name=name, type="process", replicas=replicas, command=("x", "{port}"))


class Claimed:
    """A provider of replicas that are only claimed: a test says when they are ready."""

    def __init__(self, config: ProcessPool, on_change: OnChange) -> None:
        self.count = config.replicas
        self.ready = False
        self.stopped = False
        self.broken = False
        self._on_change = on_change
        self._drained = asyncio.Event()
        self._leaves = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True
        if self.broken:
            raise OSError("the device is busy")

    def become_ready(self) -> None:
        self.ready = True
        self._on_change()

    def endpoints(self) -> tuple[EndpointSpec, ...]:
        return (EndpointSpec(C, draining=self._leaves),) if self.ready and self.count else ()

    def reconfigure(self, config: PoolConfig) -> bool:
        if not isinstance(config, ProcessPool):
            return False
        self._leaves = False
        return self.scale(config.replicas)

    def scale(self, replicas: int) -> bool:
        self.count = replicas
        self._on_change()
        return True

    async def leave(self) -> None:
        self._leaves = True
        self._on_change()
        await self._drained.wait()
        self.scale(0)

    def drained(self, address: str) -> None:
        if self._leaves and address == C:
            self._drained.set()

    def replicas(self) -> tuple[ReplicaRecord, ...]:
        state = ReplicaState.READY if self.ready else ReplicaState.STARTING
        return (ReplicaRecord("replica", state, C),) * self.count


class Place:
    """A fleet with what its reader has seen."""

    def __init__(self) -> None:
        self.made: list[Provider] = []
        self.endpoints: dict[str, dict[str, EndpointSpec]] = {}
        self.messages = 0
        self.fleet = Fleet(self._make)
        self.reading = asyncio.create_task(self._read())

    def _make(self, config: PoolConfig, on_change: OnChange) -> Provider:
        provider: Provider
        if isinstance(config, StaticPool):
            provider = StaticEndpoints(config, on_change=on_change)
        else:
            assert isinstance(config, ProcessPool)
            provider = Claimed(config, on_change)
        self.made.append(provider)
        return provider

    async def _read(self) -> None:
        async for changes in self.fleet.changes():
            self.messages += 1
            changes.apply_to(self.endpoints.setdefault(changes.pool, {}))

    async def configure(self, *configs: PoolConfig) -> None:
        await self.fleet.reconfigure(configs)
        await settled()

    def serving(self, pool: str = "chat") -> list[str]:
        return sorted(a for a, spec in self.endpoints.get(pool, {}).items() if not spec.draining)

    def draining(self, pool: str = "chat") -> list[str]:
        return sorted(a for a, spec in self.endpoints.get(pool, {}).items() if spec.draining)

    def claimed(self) -> Claimed:
        """The latest of these."""
        return next(one for one in reversed(self.made) if isinstance(one, Claimed))


async def settled() -> None:
    """Whatever can happen now has happened."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.005)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    yield made
    await made.fleet.stop()
    made.reading.cancel()


async def test_a_reader_learns_of_all_endpoints_and_of_each_change(place: Place) -> None:
    await place.configure(static("chat", A, B), static("code", C))
    assert (place.serving("chat"), place.serving("code")) == ([A, B], [C])
    assert place.messages == 2
    await place.configure(static("chat", A, C), static("code", C))
    assert (place.serving("chat"), place.draining("chat")) == ([A, C], [B])
    assert place.messages == 3
    await place.configure(static("chat", A, C), static("code", C))
    assert place.messages == 3
    assert len(place.made) == 2


async def test_a_pool_that_is_gone_drains(place: Place) -> None:
    await place.configure(static("chat", A), static("code", B))
    await place.configure(static("code", B))
    assert (place.serving(), place.draining()) == ([], [A])
    place.fleet.drained("code", A)
    await settled()
    assert place.draining() == [A], "that was said of another pool"
    place.fleet.drained("chat", A)
    await settled()
    assert place.endpoints["chat"] == {}
    assert place.fleet.replicas().keys() == {"code"}


async def test_a_pool_that_comes_back_while_it_drains_is_taken_back(place: Place) -> None:
    await place.configure(static("chat", A))
    await place.configure()
    assert place.draining() == [A]
    await place.configure(static("chat", A))
    assert (place.serving(), place.draining()) == ([A], [])
    assert len(place.made) == 1


async def test_a_pool_of_another_kind_takes_over_when_it_has_an_endpoint(place: Place) -> None:
    await place.configure(static("chat", A))
    await place.configure(processes("chat"))
    assert (place.serving(), place.draining()) == ([A], []), "nothing else serves yet"
    assert len(place.fleet.replicas()["chat"]) == 2
    place.claimed().become_ready()
    await settled()
    assert (place.serving(), place.draining()) == ([C], [A])
    place.fleet.drained("chat", A)
    await settled()
    assert (place.serving(), place.draining()) == ([C], [])


async def test_a_pool_of_another_kind_without_replicas_does_not_keep_the_old_one(
    place: Place,
) -> None:
    await place.configure(static("chat", A))
    await place.configure(processes("chat", replicas=0))
    assert (place.serving(), place.draining()) == ([], [A])


async def test_a_change_of_kind_that_is_taken_back(place: Place) -> None:
    await place.configure(static("chat", A))
    await place.configure(processes("chat"))
    never_ready = place.claimed()
    await place.configure(static("chat", A, B))
    assert (place.serving(), place.draining()) == ([A, B], [])
    assert len(place.made) == 2
    never_ready.drained(C)
    await until(lambda: never_ready.stopped)


async def test_an_address_that_drains_for_one_kind_serves_for_the_other(place: Place) -> None:
    await place.configure(processes("chat"))
    place.claimed().become_ready()
    await settled()
    await place.configure(static("chat", C))
    assert place.claimed().endpoints() == (EndpointSpec(C, draining=True),)
    assert (place.serving(), place.draining()) == ([C], [])


async def test_a_pool_that_cannot_be_ended_is_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.configure(processes("chat"))
    place.claimed().become_ready()
    place.claimed().broken = True
    await place.configure()
    with caplog.at_level(logging.ERROR):
        place.fleet.drained("chat", C)
        await settled()
    assert "end pool chat has failed" in caplog.text
    assert "the device is busy" in caplog.text


async def test_stop_does_not_wait_for_what_drains(place: Place) -> None:
    await place.configure(processes("chat"), static("code", A))
    place.claimed().become_ready()
    await place.configure(static("code", A))
    await place.fleet.stop()
    assert place.claimed().stopped
    await settled()
    assert place.serving("code") == []
