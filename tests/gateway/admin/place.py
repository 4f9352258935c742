"""A supervisor's tenants and a picker worker's accounts, for tests: real ones, in this process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from aiohttp import web

from gateway.admin.access import Access
from gateway.admin.api import application
from gateway.admin.status import (
    ConfigStatus,
    EnvoyStatus,
    GatewayStatus,
    UnknownEndpointError,
)
from gateway.config.reading.load import load
from gateway.control.accounts import AccountsClient, AccountsServer
from gateway.control.decisions import DecisionsClient
from gateway.limits.accounts import AccountsSource, TenantAccounts
from gateway.limits.memory.store import MemoryStore
from gateway.limits.usage import UsageRecord
from gateway.run import compose
from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.key_admin import KeyAdmin
from gateway.tenancy.tenant_admin import TenantAdmin
from picker.admission.sight import PoolSight
from policies.limits.plan import Subject
from policies.limits.plan import takes as takes_of
from policies.limits.prices import Usage

CONFIGURATION = """
plans:
  - name: gold
    limits:
      - {count: requests, limit: 60, period: minute}
      - {count: total_tokens, limit: 10000, burst: 20000, period: minute, by: [user]}
      - {count: cost, limit: 12.5, period: month, window: calendar}
      - {count: concurrency, limit: 4, by: [key]}
tenants:
  - name: fixed
    plan: gold
    keys:
      - {id: ci, sha256: "0000000000000000000000000000000000000000000000000000000000000000"}
pricing:
  models: [{model: "*", input: 1, output: 2}]
"""
NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)
TODAY = date(2027, 1, 15)


class Status:
    """A supervisor without anything to tell."""

    decisions = DecisionsClient(list)

    def status(self) -> GatewayStatus:
        return GatewayStatus("0", NOON, 0.0, (), ConfigStatus(1, NOON, ""), EnvoyStatus("ready"))

    def queues(self) -> list[PoolSight]:
        return []

    def config_document(self) -> Mapping[str, object]:
        return {}

    async def set_draining(self, pool: str, address: str, *, draining: bool) -> None:
        raise UnknownEndpointError("there is no pool")


class Place:
    """Tenants over a SQLite registry, limits over a store whose clock stands at noon."""

    currency = "USD"

    def __init__(self, folder: Path, configuration: str = CONFIGURATION) -> None:
        file = folder / "penstock.yaml"
        file.write_text(configuration)
        self.config = load(file, environment={})
        self.directory = Directory(self.config)
        self.registry = compose.registry(self.config)
        self.follower = Follower(self.registry, self.directory)
        keys = KeyAdmin(self.follower, now_s=time.time)
        self.tenants: TenantAdmin | None = TenantAdmin(self.follower, keys)
        self.store = MemoryStore(clock_ms=lambda: round(NOON.timestamp() * 1_000))
        self.answers = TenantAccounts(self.store, self.store, self.directory.policy_with)
        self.socket = folder / "accounts-0.sock"
        self.accounts = AccountsClient(lambda: [self.socket])
        self.token: str | None = None
        self.access = Access(lambda: self.token)

    async def use(
        self,
        subject: Subject,
        usage: Usage,
        *,
        key_id: str = "",
        day: date = TODAY,
        settled: bool = True,
    ) -> None:
        """A request that was served, or that still runs."""
        policy = self.directory.policy_with(subject.tenant, key_id)
        assert policy is not None
        taken = takes_of(policy.meters(subject), usage)
        name = f"r{time.monotonic_ns()}"
        await self.store.reserve(subject.tenant, name, taken, 60.0)
        if settled:
            price = policy.prices.of(subject.model)
            record = UsageRecord(
                day,
                key_id,
                subject.user,
                subject.model,
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                price.micros(usage) if price is not None else 0,
            )
            charges = {take.bucket.key: take.amount for take in taken}
            await self.store.settle(subject.tenant, name, charges, record)

    async def serve_api(self) -> tuple[web.AppRunner, str]:
        """The admin API, and where it is."""
        app = application(Status(), self, self.access, self.socket.parent)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@asynccontextmanager
async def place(configuration: str = CONFIGURATION) -> AsyncIterator[tuple[Place, str]]:
    """A running one, and the URL of its admin API."""
    with tempfile.TemporaryDirectory(prefix="pk") as name:  # unix sockets' paths are short
        folder = Path(name)
        made = Place(folder, configuration)
        stop = await serve_accounts(made.answers, made.socket)
        runner, url = await made.serve_api()
        try:
            yield made, url
        finally:
            await runner.cleanup()
            await stop()
            await made.follower.close()


async def serve_accounts(source: AccountsSource, socket: Path) -> Callable[[], Awaitable[None]]:
    """A worker's end on a socket; call the answer to stop it."""
    server = AccountsServer(source)
    await server.start(socket)
    return server.stop
