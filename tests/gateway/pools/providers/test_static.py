"""Static pools: literal addresses, host names, draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from gateway.config.schema.pools import ProcessPool, StaticPool
from gateway.pools.provider import ReplicaState
from gateway.pools.providers.static import StaticEndpoints, resolve_host
from picker.state.spec import EndpointSpec


def config(
    *endpoints: str, drain_timeout_s: float = 60, resolve_interval_s: float = 60
) -> StaticPool:
    return StaticPool(
        name="chat",
        type="static",
        endpoints=endpoints,
        drain_timeout_s=drain_timeout_s,
        resolve_interval_s=resolve_interval_s,
    )


class Names:
    """A name server whose answers a test can change."""

    def __init__(self) -> None:
        self.answers: dict[str, Sequence[str]] = {}

    async def resolve(self, host: str) -> Sequence[str]:
        if host not in self.answers:
            raise OSError(-2, "Name or service not known")
        return self.answers[host]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def make(names: Names) -> AsyncIterator[Callable[[StaticPool], StaticEndpoints]]:
    pools: list[StaticEndpoints] = []

    def made(given: StaticPool) -> StaticEndpoints:
        pool = StaticEndpoints(given, on_change=lambda: None, resolve=names.resolve)
        pools.append(pool)
        return pool

    yield made
    for pool in pools:
        await pool.stop()


Make = Callable[[StaticPool], StaticEndpoints]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.005)


async def test_addresses_are_endpoints_at_once(make: Make) -> None:
    pool = make(config("10.0.0.2:8000", "10.0.0.1:8000", "[::1]:9"))
    await pool.start()
    assert pool.endpoints() == (
        EndpointSpec("10.0.0.1:8000"),
        EndpointSpec("10.0.0.2:8000"),
        EndpointSpec("[::1]:9"),
    )
    assert {status.state for status in pool.replicas()} == {ReplicaState.ACTIVE}


async def test_a_removed_address_drains_until_it_is_told_empty(make: Make) -> None:
    pool = make(config("10.0.0.1:8000", "10.0.0.2:8000"))
    await pool.start()
    pool.reconfigure(config("10.0.0.2:8000", "10.0.0.3:8000"))
    assert pool.endpoints() == (
        EndpointSpec("10.0.0.1:8000", draining=True),
        EndpointSpec("10.0.0.2:8000"),
        EndpointSpec("10.0.0.3:8000"),
    )
    pool.drained("10.0.0.2:8000")  # not draining: nothing happens
    pool.drained("10.0.0.1:8000")
    assert pool.endpoints() == (EndpointSpec("10.0.0.2:8000"), EndpointSpec("10.0.0.3:8000"))


async def test_draining_ends_by_itself_after_its_timeout(make: Make) -> None:
    pool = make(config("10.0.0.1:8000", drain_timeout_s=0.05))
    await pool.start()
    pool.reconfigure(config(drain_timeout_s=0.05))
    assert pool.endpoints() == (EndpointSpec("10.0.0.1:8000", draining=True),)
    await until(lambda: pool.endpoints() == ())


async def test_an_address_that_comes_back_while_it_drains_serves_again(make: Make) -> None:
    pool = make(config("10.0.0.1:8000", drain_timeout_s=0.05))
    await pool.start()
    pool.reconfigure(config(drain_timeout_s=0.05))
    pool.reconfigure(config("10.0.0.1:8000", drain_timeout_s=0.05))
    await asyncio.sleep(0.1)
    assert pool.endpoints() == (EndpointSpec("10.0.0.1:8000"),)


async def test_a_host_name_gives_an_endpoint_for_each_of_its_addresses(
    make: Make, names: Names
) -> None:
    names.answers["vllm"] = ["10.0.0.1", "10.0.0.2", "fd00::1"]
    pool = make(config("vllm:8000"))
    await pool.start()
    await until(pool.endpoints)
    assert [spec.address for spec in pool.endpoints()] == [
        "10.0.0.1:8000",
        "10.0.0.2:8000",
        "[fd00::1]:8000",
    ]


async def test_names_are_resolved_again_and_what_left_drains(make: Make, names: Names) -> None:
    names.answers["vllm"] = ["10.0.0.1"]
    pool = make(config("vllm:8000", resolve_interval_s=0.02))
    await pool.start()
    await until(pool.endpoints)
    names.answers["vllm"] = ["10.0.0.2"]
    await until(lambda: len(pool.endpoints()) == 2)
    assert pool.endpoints() == (
        EndpointSpec("10.0.0.1:8000", draining=True),
        EndpointSpec("10.0.0.2:8000"),
    )


async def test_a_name_that_stops_resolving_keeps_its_addresses_and_says_so(
    make: Make, names: Names
) -> None:
    names.answers["vllm"] = ["10.0.0.1"]
    pool = make(config("vllm:8000", resolve_interval_s=0.02))
    await pool.start()
    await until(pool.endpoints)
    del names.answers["vllm"]
    await until(lambda: pool.replicas()[0].last_error)
    assert pool.endpoints() == (EndpointSpec("10.0.0.1:8000"),)
    assert pool.replicas()[0].last_error == "vllm cannot be resolved: Name or service not known"


async def test_a_name_that_never_resolved_is_shown_as_such(make: Make) -> None:
    pool = make(config("nowhere:8000", "10.0.0.1:8000"))
    await pool.start()
    await until(lambda: pool.replicas()[0].last_error)
    assert pool.replicas()[0].state is ReplicaState.UNRESOLVED
    assert pool.endpoints() == (EndpointSpec("10.0.0.1:8000"),)


async def test_change_is_told_only_when_something_changed(names: Names) -> None:
    names.answers["vllm"] = ["10.0.0.1"]
    told: list[tuple[EndpointSpec, ...]] = []
    given = config("vllm:8000", resolve_interval_s=0.01)
    pool = StaticEndpoints(
        given, on_change=lambda: told.append(pool.endpoints()), resolve=names.resolve
    )
    await pool.start()
    await asyncio.sleep(0.1)
    pool.reconfigure(given)
    assert told == [(EndpointSpec("10.0.0.1:8000"),)]
    await pool.stop()
    assert told[-1] == ()


async def test_the_systems_resolver_knows_localhost() -> None:
    assert await resolve_host("localhost") in (["127.0.0.1"], ["::1"])


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "a..b"])
async def test_hosts_that_cannot_be_resolved_do_not_stop_the_pool(host: str) -> None:
    pool = StaticEndpoints(config(f"{host}:1", "10.0.0.1:1"), on_change=lambda: None)
    await pool.start()
    await until(lambda: pool.replicas()[0].last_error)
    assert pool.endpoints() == (EndpointSpec("10.0.0.1:1"),)
    await pool.stop()


async def test_another_kind_of_pool_needs_another_provider(make: Make) -> None:
    pool = make(config("10.0.0.1:1"))
    await pool.start()
    other = ProcessPool(name="chat", type="process", command=("x", "{port}"))
    assert not pool.reconfigure(other)
    assert pool.endpoints() == (EndpointSpec("10.0.0.1:1"),)
    assert pool.reconfigure(config("10.0.0.2:1"))


async def test_it_has_left_when_its_last_endpoint_has_drained(make: Make, names: Names) -> None:
    names.answers["vllm"] = ["10.0.0.3"]
    pool = make(config("10.0.0.1:1", "10.0.0.2:1", "vllm:1", resolve_interval_s=0.01))
    await pool.start()
    await until(lambda: len(pool.endpoints()) == 3)
    leaving = asyncio.create_task(pool.leave())
    await asyncio.sleep(0.05)  # time enough to resolve the name again
    assert [spec.draining for spec in pool.endpoints()] == [True, True, True]
    for address in ("10.0.0.1:1", "10.0.0.2:1"):
        pool.drained(address)
        await asyncio.sleep(0)
        assert not leaving.done()
    pool.drained("10.0.0.3:1")
    await leaving
    assert pool.replicas() == ()


async def test_one_that_leaves_can_be_taken_back(make: Make) -> None:
    pool = make(config("10.0.0.1:1", "10.0.0.2:1"))
    await pool.start()
    leaving = asyncio.create_task(pool.leave())
    await asyncio.sleep(0)
    pool.drained("10.0.0.1:1")
    leaving.cancel()
    pool.reconfigure(config("10.0.0.2:1"))
    assert pool.endpoints() == (EndpointSpec("10.0.0.2:1"),)


async def test_its_replicas_are_not_ours_to_scale(make: Make) -> None:
    assert not make(config("10.0.0.1:1")).scale(2)
