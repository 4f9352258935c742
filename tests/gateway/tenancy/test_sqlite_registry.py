"""The registry in a file: its owner, its restarts, its faults."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from gateway.tenancy.registry import START, RegistryUnavailable
from gateway.tenancy.sqlite_registry import SqliteRegistry
from tests.gateway.tenancy.parts import all_of, tenant


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
