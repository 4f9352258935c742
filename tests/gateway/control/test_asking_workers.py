"""What the supervisor hears from a picker worker about limits and usage, over a unix socket."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import pytest

from gateway.control.accounts import AccountsClient, AccountsUnavailable
from gateway.limits.accounts import UnknownSubject
from gateway.limits.buckets import StoreUnavailable
from gateway.limits.usage import UsageRecord
from policies.limits.plan import Subject
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Standing,
    TokenBucket,
)
from tests.gateway.admin.place import serve_accounts

DAY = date(2027, 1, 15)
ACME = Subject("acme", "line", "bob", "llama", "main")


class Told:
    """A worker that tells what a test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[Subject, str]] = []
        self.standing: list[Standing] = []
        self.rows: dict[str, list[UsageRecord]] = {}
        self.away = False

    async def standings(self, subject: Subject, key_id: str) -> Sequence[Standing]:
        self.asked.append((subject, key_id))
        if self.away:
            raise StoreUnavailable("no answer within 50 ms")
        if subject.tenant != "acme":
            raise UnknownSubject(f"there is no tenant {subject.tenant!r}")
        return self.standing

    async def usage(
        self, tenant: str | None, first: date, last: date
    ) -> AsyncIterator[tuple[str, Sequence[UsageRecord]]]:
        for name, rows in self.rows.items():
            if tenant in (None, name):
                yield name, [row for row in rows if first <= row.day <= last]
        if self.away:
            raise StoreUnavailable("no answer within 50 ms")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pk") as name:  # unix sockets' paths are short
        yield Path(name)


@pytest.fixture
async def worker(folder: Path) -> AsyncIterator[Told]:
    told = Told()
    stop = await serve_accounts(told, folder / "one.sock")
    yield told
    await stop()


@pytest.fixture
def client(folder: Path, worker: Told) -> AccountsClient:
    return AccountsClient(lambda: [folder / "one.sock"])


def row(tenant: int, day: date = DAY) -> UsageRecord:
    return UsageRecord(day, "key", f"user{tenant}", "llama", 10, 4, 5, 25, requests=2)


async def usage(client: AccountsClient, tenant: str | None) -> list[tuple[str, UsageRecord]]:
    return [found async for found in client.usage(tenant, DAY, DAY)]


async def test_standings_arrive_as_they_are(worker: Told, client: AccountsClient) -> None:
    worker.standing = [
        Standing(Bucket("a", Dimension.REQUESTS, TokenBucket(20, 10, 60_000), "A"), 20, 3, 90_500),
        Standing(
            Bucket("b|user=bob", Dimension.MONEY, CalendarWindow(9 * 10**14, Period.MONTH), "B"),
            9 * 10**14,
            9 * 10**14,
            0,
        ),
        Standing(Bucket("c", Dimension.CONCURRENCY, Concurrency(4), "C", shadow=True), 4, 0, 0),
    ]
    assert await client.limits(ACME, "id") == worker.standing
    assert worker.asked == [(ACME, "id")]


async def test_a_tenant_that_the_worker_does_not_know(client: AccountsClient) -> None:
    with pytest.raises(UnknownSubject, match="there is no tenant 'nobody'"):
        await client.limits(Subject("nobody"), "")


async def test_usage_of_one_tenant_and_of_all(worker: Told, client: AccountsClient) -> None:
    worker.rows = {"acme": [row(1), row(2)], "other": [row(3), row(4, DAY + timedelta(days=1))]}
    assert await usage(client, "acme") == [("acme", row(1)), ("acme", row(2))]
    assert await usage(client, None) == [("acme", row(1)), ("acme", row(2)), ("other", row(3))]
    assert await usage(client, "nobody") == []


async def test_much_usage_comes_whole(worker: Told, client: AccountsClient) -> None:
    worker.rows = {"acme": [row(number) for number in range(20_001)]}
    found = await usage(client, "acme")
    assert [one for _, one in found] == worker.rows["acme"]


async def test_a_worker_that_is_gone_is_passed_over(folder: Path, worker: Told) -> None:
    worker.rows = {"acme": [row(1)]}
    client = AccountsClient(lambda: [folder / "gone.sock", folder / "one.sock"])
    assert await client.limits(ACME, "") == []
    assert await usage(client, "acme") == [("acme", row(1))]


async def test_without_any_worker_it_says_so(folder: Path) -> None:
    gone = AccountsClient(lambda: [folder / "gone.sock"])
    for client, reason in ((AccountsClient(list), "no picker runs"), (gone, "gone does not")):
        with pytest.raises(AccountsUnavailable, match=reason):
            await client.limits(ACME, "")
        with pytest.raises(AccountsUnavailable, match=reason):
            await usage(client, None)


async def test_a_store_that_is_away_is_named(worker: Told, client: AccountsClient) -> None:
    worker.away = True
    reason = "the limit store does not answer: no answer within 50 ms"
    with pytest.raises(AccountsUnavailable, match=reason):
        await client.limits(ACME, "")
    with pytest.raises(AccountsUnavailable, match=reason):
        await usage(client, None)


async def test_usage_that_breaks_off_is_not_told_twice(folder: Path, worker: Told) -> None:
    worker.rows, worker.away = {"acme": [row(1)]}, True
    client = AccountsClient(lambda: [folder / "one.sock", folder / "one.sock"])
    rows = client.usage(None, DAY, DAY)
    assert await anext(rows) == ("acme", row(1))
    with pytest.raises(AccountsUnavailable):
        await anext(rows)
