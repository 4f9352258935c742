"""Every registry keeps the same promises."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.tenancy.registry import (
    START,
    Conflict,
    Entry,
    EntryKind,
    Position,
    Registry,
)
from tests.gateway.tenancy.parts import all_of, key, open_registry, tenant
from tests.redis_server import RedisServer

ROOT = Path(__file__).parents[3]


async def test_what_one_writes_another_reads(registries: Iterator[Registry]) -> None:
    here, there = next(registries), next(registries)
    await here.write([tenant("acme", content='{"ü": 1}'), key("acme")])
    assert await all_of(there) == [tenant("acme", content='{"ü": 1}'), key("acme")]


async def test_an_empty_one_has_nothing(registry: Registry) -> None:
    page = await registry.changes(START)
    assert (page.entries, page.more) == ((), False)


@pytest.mark.parametrize("version", [0, 1, 3])
async def test_a_write_on_another_version_is_refused(
    registries: Iterator[Registry], version: int
) -> None:
    here, there = next(registries), next(registries)
    await here.write([tenant("acme")])
    with pytest.raises(Conflict, match="tenant 'acme'"):
        await there.write([tenant("acme", version)])
    await there.write([tenant("acme", 2)])
    assert await all_of(here) == [tenant("acme", 2)]


async def test_all_is_written_or_nothing(registry: Registry) -> None:
    await registry.write([tenant("b")])
    with pytest.raises(Conflict):
        await registry.write([tenant("a"), key("k"), tenant("b")])
    assert await all_of(registry) == [tenant("b")]


async def test_only_what_is_new_is_read(registries: Iterator[Registry]) -> None:
    writer, reader = next(registries), next(registries)
    await writer.write([tenant("a"), tenant("b")])
    page = await reader.changes(START)
    assert [entry.id for entry in page.entries] == ["a", "b"]
    assert (await reader.changes(page.position)).entries == ()
    await writer.write([tenant("a", 2)])
    await writer.write([tenant("c")])
    await writer.write([tenant("a", 3)])
    page = await reader.changes(page.position)
    assert not page.restarted
    assert page.entries == (tenant("c"), tenant("a", 3)), "the last version of each, once"


async def test_much_is_read_in_pages(registry: Registry) -> None:
    await registry.write([tenant(f"t{number}") for number in range(7)])
    place, seen, more = START, [], True
    while more:
        page = await registry.changes(place, 3)
        assert page.restarted == (place == START)
        place, more = page.position, page.more
        seen.append([entry.id for entry in page.entries])
    assert seen == [["t0", "t1", "t2"], ["t3", "t4", "t5"], ["t6"]]


async def test_a_merge_takes_what_is_newer(registry: Registry) -> None:
    await registry.write([tenant("old"), tenant("same", content="1")])
    page = await registry.changes(START)
    await registry.merge(
        [tenant("old", 4), tenant("same", content="2"), key("lost", 9), tenant("old", 3)]
    )
    page = await registry.changes(page.position)
    assert page.entries == (tenant("old", 4), key("lost", 9))
    assert tenant("same", content="1") in await all_of(registry)


async def test_a_place_of_another_registry_starts_again(registry: Registry) -> None:
    await registry.write([tenant("a")])
    page = await registry.changes(Position("elsewhere", 1 << 52))
    assert page.restarted
    assert page.entries == (tenant("a"),)


async def test_a_place_ahead_of_the_registry_starts_again(registry: Registry) -> None:
    await registry.write([tenant("a")])
    epoch = (await registry.changes(START)).position.epoch
    assert (await registry.changes(Position(epoch, 1 << 52))).restarted


async def test_two_processes_write_at_once(place: str) -> None:
    times = 25
    program = (sys.executable, "-m", "tests.gateway.tenancy.parts")
    writers = [
        await asyncio.create_subprocess_exec(*program, place, name, str(times), cwd=ROOT)
        for name in ("one", "two")
    ]
    assert [await writer.wait() for writer in writers] == [0, 0]
    registry = open_registry(place)
    found = {entry.id: entry for entry in await all_of(registry)}
    await registry.close()
    assert found["counter"] == tenant("counter", 2 * times, str(2 * times)), "no update is lost"
    assert (found["one"].version, found["two"].version) == (times, times)


Written = st.lists(
    st.lists(
        st.tuples(st.sampled_from(EntryKind), st.sampled_from("abc"), st.integers(1, 4)), max_size=4
    ),
    max_size=12,
)


@given(batches=Written, merges=st.sets(st.integers(0, 11)), page=st.integers(1, 5))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_it_is_a_dictionary_with_a_feed(
    kind: str,
    batches: list[list[tuple[EntryKind, str, int]]],
    merges: set[int],
    page: int,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Against a model: whatever is written, a reader that follows knows all of it, in order."""
    where = str(tmp_path_factory.mktemp("registry") / "r.db")
    if kind == "redis":
        shared_redis.ask("FLUSHALL")
        where = shared_redis.url

    async def play() -> None:
        registry = open_registry(where)
        model: dict[tuple[EntryKind, str], Entry] = {}
        known: dict[tuple[EntryKind, str], Entry] = {}
        place = START
        for number, batch in enumerate(batches):
            entries = [Entry(k, i, v, f"{number}".encode()) for k, i, v in batch]
            if number in merges:
                await registry.merge(entries)
                for entry in entries:
                    at = (entry.kind, entry.id)
                    if at not in model or entry.version > model[at].version:
                        model[at] = entry
            else:
                after = dict(model)
                fits = True
                for entry in entries:
                    at = (entry.kind, entry.id)
                    fits &= entry.version == (after[at].version if at in after else 0) + 1
                    after[at] = entry
                if fits:
                    await registry.write(entries)
                    model = after
                else:
                    with pytest.raises(Conflict):
                        await registry.write(entries)
            more = True
            while more:
                news = await registry.changes(place, page)
                place, more = news.position, news.more
                known.update({(e.kind, e.id): e for e in news.entries})
            assert known == model
        await registry.close()

    asyncio.run(play())
