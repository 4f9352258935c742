"""Every registry keeps the same promises."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.limits.redis.client import connect, connect_cluster
from gateway.tenancy.redis_registry import RedisRegistry
from gateway.tenancy.registry import (
    START,
    Conflict,
    Entry,
    EntryKind,
    Position,
    Registry,
    RegistryUnavailable,
)
from gateway.tenancy.sqlite_registry import SqliteRegistry
from tests.gateway.tenancy.parts import PATIENT_S, all_of, open_registry
from tests.redis_server import RedisServer

ROOT = Path(__file__).parents[3]


def tenant(name: str, version: int = 1, content: str = "{}") -> Entry:
    return Entry(EntryKind.TENANT, name, version, content.encode())


def key(name: str, version: int = 1, content: str = "{}") -> Entry:
    return Entry(EntryKind.KEY, name, version, content.encode())


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


async def test_redis_that_is_gone_is_unavailable(own_redis: RedisServer) -> None:
    registry = open_registry(own_redis.url)
    await registry.write([tenant("a")])
    own_redis.kill()
    with pytest.raises(RegistryUnavailable):
        await registry.write([tenant("b")])
    with pytest.raises(RegistryUnavailable):
        await registry.changes(START)
    own_redis.start()
    assert await all_of(registry) == []
    await registry.close()


async def test_redis_that_says_nothing_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    server = await asyncio.start_unix_server(lambda reader, writer: None, path)
    registry = RedisRegistry(connect(f"unix://{path}", timeout_s=0.05), timeout_s=0.05)
    with pytest.raises(RegistryUnavailable):
        await registry.changes(START)
    await registry.close()
    server.close()


async def test_redis_keys_are_in_one_hash_slot(redis_server: RedisServer) -> None:
    registry = RedisRegistry(connect(redis_server.url, timeout_s=PATIENT_S), prefix="mine:")
    await registry.write([tenant("a")])
    await registry.close()
    names = redis_server.ask("KEYS", "*")
    assert isinstance(names, list)
    assert len(names) == 3
    assert all(name.startswith(b"mine:{registry}:") for name in names)
    with pytest.raises(ValueError, match="braces"):
        RedisRegistry(connect(redis_server.url), prefix="{x}")


async def test_redis_may_be_a_cluster() -> None:
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder), cluster=True)
        server.start()
        try:
            server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            async with asyncio.timeout(60):
                while "cluster_state:ok" not in str(server.ask("CLUSTER", "INFO")):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            client = connect_cluster(f"redis://127.0.0.1:{server.port}", timeout_s=PATIENT_S)
            registry = RedisRegistry(client, timeout_s=PATIENT_S)
            await registry.write([tenant("a"), key("k")])
            await registry.merge([tenant("a", 3)])
            assert await all_of(registry) == [key("k"), tenant("a", 3)]
            server.kill()
            with pytest.raises(RegistryUnavailable):
                await registry.changes(START)
            await registry.close()
        finally:
            server.kill()


async def test_the_file_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "state" / "penstock.db"
    registry = SqliteRegistry(path)
    await registry.write([tenant("a")])
    files = [path, *path.parent.glob("penstock.db-*")]
    assert len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await registry.close()


async def test_the_file_outlives_the_process(tmp_path: Path) -> None:
    first = SqliteRegistry(tmp_path / "penstock.db")
    await first.write([tenant("a")])
    place = (await first.changes(START)).position
    await first.close()
    second = SqliteRegistry(tmp_path / "penstock.db")
    assert not (await second.changes(place)).restarted
    assert await all_of(second) == [tenant("a")]
    await second.close()


async def test_a_file_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    registry = SqliteRegistry(tmp_path / "state" / "penstock.db")
    with pytest.raises(RegistryUnavailable, match=r"penstock\.db"):
        await registry.changes(START)
    (tmp_path / "state").unlink()
    assert await all_of(registry) == []
    await registry.close()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "penstock.db").write_bytes(b"not a database" * 100)
    registry = SqliteRegistry(tmp_path / "penstock.db", timeout_s=0.1)
    with pytest.raises(RegistryUnavailable, match="not a database"):
        await registry.changes(START)
    await registry.close()


async def test_a_file_that_is_removed_under_us_is_unavailable(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "penstock.db")
    await registry.write([tenant("a")])
    (tmp_path / "penstock.db").unlink()
    with pytest.raises(RegistryUnavailable, match="removed"):
        await registry.write([tenant("b")])
    await registry.close()


async def test_a_file_of_a_later_penstock_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "penstock.db"
    registry = SqliteRegistry(path)
    await registry.write([tenant("a")])
    await registry.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE registry_meta SET value = '99' WHERE name = 'schema'")
    connection.close()
    registry = SqliteRegistry(path)
    with pytest.raises(RegistryUnavailable, match="version 99"):
        await registry.changes(START)
    await registry.close()
