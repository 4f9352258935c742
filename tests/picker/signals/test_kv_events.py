"""Which streams of KV events there are."""

from __future__ import annotations

import resource

import pytest

from picker.settings import PickerSettings, PoolSettings
from picker.signals.kv_events import KvEvents, KvSettings
from picker.state.spec import EndpointSpec, KvPorts
from tests.picker.fleet import POOL, fleet, policy

GUESSED = KvSettings(port=5557, replay_port=5558, guessed=True)


async def streams(
    settings: KvSettings | None, *specs: EndpointSpec
) -> list[tuple[str, str | None]]:
    """ZeroMQ endpoints that are subscribed to and asked for replays."""
    made, events = fleet([]), KvEvents()
    pool = made.picker.pools[POOL]
    made.picker.pools.sync_endpoints(POOL, specs)
    events.open()
    try:
        events.sync(pool, settings, pool.state.specs)
        found = [(one.endpoint.events, one.endpoint.replay) for one in events._streams.values()]
        events.sync(pool, settings, pool.state.specs)
        assert len(events._streams) == len(found)
        events.drop(POOL)
        assert not events._streams
    finally:
        events.close()
    return found


@pytest.mark.parametrize(
    ("addresses", "tried"),
    [
        (["10.0.0.1:8000", "10.0.0.2:8000"], ["10.0.0.1", "10.0.0.2"]),
        (["10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.2:8000"], ["10.0.0.2"]),  # whose would it be?
        (["127.0.0.1:8000", "8.8.8.8:443", "[2001:4860:4860::8888]:443"], []),
        (["[fd00::1]:8000"], ["[fd00::1]"]),
    ],
)
async def test_a_guess_is_made_where_it_can_be_right_and_bothers_nobody(
    addresses: list[str], tried: list[str]
) -> None:
    found = await streams(GUESSED, *map(EndpointSpec, addresses))
    assert found == [(f"tcp://{host}:5557", f"tcp://{host}:5558") for host in tried]


async def test_what_is_named_is_listened_to() -> None:
    named = KvSettings(port=7000, replay_port=None, ranks=2)
    assert await streams(named, EndpointSpec("127.0.0.1:8000", rank=3)) == [
        ("tcp://127.0.0.1:7003", None),
        ("tcp://127.0.0.1:7004", None),
    ]
    told = EndpointSpec("127.0.0.1:8000", kv_events=KvPorts(7_100, 7_101))
    assert await streams(GUESSED, told) == [("tcp://127.0.0.1:7100", "tcp://127.0.0.1:7101")]
    assert await streams(None, told) == []


async def test_there_are_as_many_streams_as_a_large_pool_needs() -> None:
    found = await streams(
        GUESSED, *(EndpointSpec(f"10.0.{n // 200}.{n % 200}:1") for n in range(400))
    )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert len(found) == min(256, files // 12)


async def test_a_host_that_another_pool_shares_is_not_guessed_any_more() -> None:
    picker, events = fleet([]).picker, KvEvents()
    one, other = (PoolSettings(name, policy()) for name in ("one", "other"))
    picker.configure(PickerSettings(pools=(one, other)))
    events.open()
    try:
        for name, left in (("one", 1), ("other", 0)):
            pool = picker.pools[name]
            picker.pools.sync_endpoints(name, [EndpointSpec(f"10.0.0.1:{len(name)}")])
            events.sync(pool, GUESSED, pool.state.specs)
            assert len(events._streams) == left
    finally:
        events.close()
