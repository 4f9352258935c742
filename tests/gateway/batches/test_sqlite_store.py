"""Files and batches in SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from gateway.batches.cancel import cancelled
from gateway.batches.problems import Refusal
from gateway.batches.records import BatchRecord, Counts, FileRecord, Owner, Status
from gateway.batches.sqlite_store import SqliteStore
from gateway.batches.store import Page, QuotaExceeded


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "state" / "batches.db")
    yield made
    await made.close()


def file(id_: str, tenant: str = "acme", **changed: object) -> FileRecord:
    made = FileRecord(
        id=id_, tenant=tenant, filename="in.jsonl", purpose="batch", size_bytes=10, created_s=1
    )
    return replace(made, **changed)


def batch(id_: str, tenant: str = "acme", **changed: object) -> BatchRecord:
    made = BatchRecord(
        id=id_,
        owner=Owner(tenant, "k1", "u"),
        endpoint="/v1/completions",
        input_file_id="file-1",
        completion_window="24h",
        created_s=5,
        expires_s=86_405,
        output_id=f"{id_}-o",
        error_id=f"{id_}-e",
        metadata={"a": "b"},
    )
    return replace(made, **changed)


async def test_files_of_another_tenant_are_not_there(store: SqliteStore) -> None:
    await store.add_file(file("f1"), 100)
    assert await store.file("f1", "acme") == file("f1")
    assert await store.file("f1", "other") is None
    assert not await store.delete_file("f1", "other")
    assert await store.files("other", None, Page()) == ([], False)
    with pytest.raises(LookupError):
        await store.files("other", None, Page(after="f1"))
    assert await store.delete_file("f1", "acme")
    assert await store.file("f1", "acme") is None


async def test_a_tenants_files_have_a_bound_together(store: SqliteStore) -> None:
    await store.add_file(file("f1", size_bytes=60), 100)
    with pytest.raises(QuotaExceeded):
        await store.add_file(file("f2", size_bytes=41), 100)
    await store.add_file(file("f3", size_bytes=40), 100)
    await store.add_file(file("f4", "other", size_bytes=100), 100)
    assert await store.stored_bytes("acme") == 100


async def test_lists_come_in_pages_from_either_end(store: SqliteStore) -> None:
    for n in range(5):
        await store.add_file(file(f"f{n}", purpose="batch" if n % 2 else "batch_output"), 1_000)

    async def ids(purpose: str | None, page: Page) -> tuple[list[str], bool]:
        found, more = await store.files("acme", purpose, page)
        return [one.id for one in found], more

    assert await ids(None, Page(limit=2)) == (["f4", "f3"], True)
    assert await ids(None, Page("f3", 3)) == (["f2", "f1", "f0"], False)
    assert await ids(None, Page(limit=2, newest_first=False)) == (["f0", "f1"], True)
    assert await ids(None, Page("f3", 5, newest_first=False)) == (["f4"], False)
    assert await ids("batch", Page()) == (["f3", "f1"], False)


async def test_a_batch_is_changed_in_one_step_with_its_files(store: SqliteStore) -> None:
    await store.add_batch(batch("b1"), 10)
    out = file("b1-o", purpose="batch_output", size_bytes=10**9)

    def end(found: BatchRecord) -> BatchRecord:
        found = replace(found, counts=Counts(2, 1, 1))
        return found.at(Status.IN_PROGRESS, 6).at(Status.FINALIZING, 7).at(Status.COMPLETED, 8)

    done = await store.change("b1", end, (out,))
    assert done is not None
    assert done == await store.batch("b1", "acme")
    assert await store.file("b1-o", "acme") == out
    assert await store.unfinished() == []
    shown = done.as_json()
    assert (shown["in_progress_at"], shown["finalizing_at"], shown["completed_at"]) == (6, 7, 8)
    assert shown["metadata"] == {"a": "b"}

    def fail(_: BatchRecord) -> BatchRecord:
        raise ValueError

    with pytest.raises(ValueError):
        await store.change("b1", fail, (file("never"),))
    assert await store.file("never", None) is None
    assert await store.change("nobody", end) is None


async def test_two_processes_use_one_file(store: SqliteStore, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path / "state" / "batches.db")
    await store.add_batch(batch("b1"), 10)
    assert [one.id for one in await other.unfinished()] == ["b1"]
    await cancelled(other, "b1", 9.5)
    found = await store.batch("b1", None)
    assert found is not None
    assert (found.status, found.as_json()["cancelling_at"]) == (Status.CANCELLING, 9)
    await other.close()


async def test_batches_that_are_not_over_have_a_bound(store: SqliteStore) -> None:
    await store.add_batch(batch("b1"), 1)
    with pytest.raises(QuotaExceeded):
        await store.add_batch(batch("b2"), 1)
    await store.change("b1", lambda found: found.at(Status.FAILED, 6))
    await store.add_batch(batch("b2"), 1)
    with pytest.raises(Refusal) as refusal:
        await cancelled(store, "b1", 9)
    assert refusal.value.status == 409
    with pytest.raises(Refusal) as refusal:
        await cancelled(store, "nobody", 9)
    assert refusal.value.status == 404


async def test_what_is_outdated_is_found_and_forgotten(store: SqliteStore) -> None:
    await store.add_file(file("f1", expires_s=10), 100)
    await store.add_file(file("f2", expires_s=20), 100)
    await store.add_file(file("f3"), 100)
    assert [one.id for one in await store.outdated_files(10.0, 9)] == ["f1"]
    await store.add_batch(batch("b1"), 9)
    await store.add_batch(batch("b2"), 9)
    await store.change("b1", lambda found: found.at(Status.FAILED, 6))
    assert await store.forget_batches(6.0) == 1
    assert await store.known() == {"f1", "f2", "f3", "b2", "b2-o", "b2-e"}


async def test_sums_for_metrics(store: SqliteStore) -> None:
    await store.add_file(file("f1"), 100)
    await store.add_batch(batch("b1", counts=Counts(10, 3, 2), status=Status.IN_PROGRESS), 9)
    await store.add_batch(batch("b2"), 9)
    totals = await store.totals()
    assert totals.batches == {"in_progress": 1, "validating": 1}
    assert totals.lines == {"pending": 5, "completed": 3, "failed": 2}
    assert (totals.oldest_s, totals.stored_bytes) == (5, 10)


def test_a_status_follows_only_on_those_that_it_may() -> None:
    with pytest.raises(ValueError):
        batch("b1").at(Status.COMPLETED, 1)
    with pytest.raises(ValueError):
        batch("b1", status=Status.COMPLETED).at(Status.CANCELLING, 1)
