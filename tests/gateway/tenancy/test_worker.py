"""A worker's tenancy over configurations with and without tenants."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gateway.config.config import Config
from gateway.control.accounts import AccountsClient
from gateway.run import compose
from gateway.telemetry.tenant_metrics import TenantMetrics
from gateway.tenancy.keys import digest_of
from gateway.tenancy.worker import WorkerTenancy
from picker.request.caller import ANYBODY
from picker.request.grant import Grant
from picker.request.rejection import Rejection
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from policies.limits.verdict import Denied
from tests.gateway.tenancy.parts import config_of, head_of

ACME = Subject("acme", "ci", "", "llama")


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        metrics = TenantMetrics(CollectorRegistry())
        socket = folder / "accounts.sock"
        self.tenancy: WorkerTenancy = WorkerTenancy(
            lambda config: compose.picker_tenancy(config, metrics), socket
        )
        self.accounts = AccountsClient(lambda: [socket])

    @property
    def without(self) -> Config:
        return config_of(state_dir=str(self.folder))

    @property
    def with_tenants(self) -> Config:
        keys = [{"id": "ci", "sha256": digest_of("ci").hex()}]
        limits = [{"count": "requests", "limit": 5, "period": "day", "window": "calendar"}]
        tenants = [{"name": "acme", "keys": keys, "limits": limits}]
        return config_of(state_dir=str(self.folder), tenants=tenants)

    async def reserve(self, id_: str) -> Grant | Denied | None:
        caller = self.tenancy.identify(head_of({"x-api-key": "ci"}))
        return await self.tenancy.reserve(id_, caller, ACME, Usage(10, 5), guessed=False)

    async def granted(self, id_: str) -> Grant:
        grant = await self.reserve(id_)
        assert grant is not None
        assert not isinstance(grant, Denied)
        return grant

    async def remaining(self) -> list[int]:
        return [one.remaining for one in await self.accounts.limits(ACME, "ci")]

    async def requests(self) -> int:
        today = datetime.now(UTC).date()
        rows = self.accounts.usage("acme", today - timedelta(days=1), today)
        return sum([row.requests async for _, row in rows])


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    with tempfile.TemporaryDirectory(prefix="pk") as name:  # unix sockets' paths are short
        made = Place(Path(name))
        yield made
        await made.tenancy.close()


async def test_without_tenants_everybody_is_anonymous_and_unlimited() -> None:
    async with place() as at:
        for _ in range(2):
            assert at.tenancy.identify(head_of({"x-api-key": "anything"})) == ANYBODY
            assert await at.reserve("r") is None
            assert at.tenancy.current is None
            await at.tenancy.configure(at.without)


async def test_tenants_come_and_go_and_requests_end_where_they_began() -> None:
    async with place() as at:
        await at.tenancy.configure(at.with_tenants)
        with pytest.raises(Rejection):
            at.tenancy.identify(head_of({"x-api-key": "other"}))
        first, second = await at.granted("first"), await at.granted("second")
        assert await at.remaining() == [3]
        first.settle(Usage(10, 5))
        assert await at.requests() == 1
        await at.tenancy.configure(at.without)
        assert await at.reserve("third") is None
        await at.tenancy.configure(at.with_tenants)  # the second request still runs
        assert await at.remaining() == [4], "what was settled is in the state's file"
        second.settle(Usage(10, 5))
        async with asyncio.timeout(30):
            while await at.requests() < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while at.tenancy._retiring:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await at.remaining() == [4], "and the supervisor is still answered"


async def test_an_end_waits_for_no_request_and_loses_no_settlement() -> None:
    async with place() as at:
        await at.tenancy.configure(at.with_tenants)
        settled, runs = await at.granted("settled"), await at.granted("runs")
        await at.tenancy.configure(at.without)
        settled.settle(Usage(10, 5))
        await asyncio.wait_for(at.tenancy.close(), 5)
        at.tenancy = Place(at.folder).tenancy
        await at.tenancy.configure(at.with_tenants)
        assert (await at.requests(), await at.remaining()) == (1, [4])
        assert runs.expected == Usage(10, 5)
