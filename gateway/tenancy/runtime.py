"""Tenancy at work: what a picker worker and the supervisor each hold of it, built from the
configuration."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from fractions import Fraction
from pathlib import Path
from typing import Final

import grpc

from gateway.config.config import Config
from gateway.config.schema.redis import RedisChoice
from gateway.config.schema.redis import RedisSection as RedisSettings
from gateway.control.accounts import AccountsHandler
from gateway.limits.limiter import LimitObserver, TenantLimiter
from gateway.limits.memory.journal import Journal
from gateway.limits.memory.store import MemoryStore
from gateway.limits.outage.fallback import FallbackStore
from gateway.limits.outage.records import Counters
from gateway.limits.redis.store import RedisStore, connect, connect_cluster
from gateway.limits.store import LimitStore
from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.gate import TenantGate
from gateway.tenancy.redis_registry import RedisRegistry
from gateway.tenancy.registry import Registry, RegistryUnavailable
from gateway.tenancy.service import TenantAdmin
from gateway.tenancy.sqlite import SqliteRegistry
from policies.limits.plan import OnStoreFailure, TenantPolicy

log = logging.getLogger(__name__)

_REGISTRY_TIMEOUT_S: Final = 2.0


class PickerTenancy:
    """Gate, limits and accounts of one picker worker. One event loop."""

    def __init__(self, config: Config, observer: LimitObserver) -> None:
        """Raises OSError or sqlite3.Error when the state's file cannot be opened."""
        self._directory = Directory(config)
        self.gate = TenantGate(self._directory, now_s=time.time)
        self.gate.configure(config)
        self._follower = Follower(_registry(config), self._directory)
        self._store = _store(config, self._directory)
        self.limiter = TenantLimiter(
            self._store,
            policy_of=self._policy_of,
            prices=lambda: self._directory.policies.prices,
            observer=observer,
            lease_s=config.limits.lease_s,
        )
        self._server: grpc.aio.Server | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self, socket: Path) -> None:
        """Know what the registry knows, and answer the supervisor's questions on ``socket``."""
        await _first_poll(self._follower)
        self._following = asyncio.create_task(self._follower.run(), name="registry")
        self.limiter.start()
        socket.unlink(missing_ok=True)  # noqa: ASYNC240 - once, in our own folder
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((AccountsHandler(self.limiter).handler(),))
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()

    def configure(self, config: Config) -> None:
        """Put a changed configuration into force. The store and the registry stay."""
        self.gate.configure(config)
        self.limiter.lease_s = config.limits.lease_s
        if isinstance(self._store, FallbackStore):
            self._store.set_share(_share(config))

    async def refresh(self) -> None:
        """Something was written to the registry: do not wait for the next look at it."""
        with contextlib.suppress(RegistryUnavailable):  # the next look tells
            await self._follower.poll()

    async def close(self, *, drained: bool = False) -> None:
        """Settle what has ended, and let go of everything. ``drained``: when all has ended."""
        if drained:
            await self.limiter.drained()
        if self._following is not None:
            self._following.cancel()
        if self._server is not None:
            await self._server.stop(None)
        await self.limiter.close()
        await self._follower.close()

    @property
    def expression_failures(self) -> int:
        """CEL evaluations that failed since the configuration came into force."""
        return self._directory.policies.failures

    @property
    def registry_failures(self) -> int:
        """Looks at the registry that failed, and entries of it that could not be read."""
        return self._follower.failures + self._directory.counters.unreadable

    @property
    def outage(self) -> Counters | None:
        """What happened while the store was away; None: it cannot be away."""
        return self._store.counters if isinstance(self._store, FallbackStore) else None

    def _policy_of(self, tenant: str, key_id: str) -> TenantPolicy | None:
        key = self._directory.key(key_id) if key_id else None
        if key is not None and key.tenant == tenant:
            return self._directory.policy_of(key)
        return self._directory.policy(tenant) or self._directory.unknown(tenant)


class SupervisorTenancy:
    """What operators ask and change, in the supervisor. One event loop."""

    def __init__(self, config: Config, written: Callable[[], Awaitable[None]]) -> None:
        """``written``: called after each write; returns when the pickers here know of it."""
        self._directory = Directory(config)
        self._follower = Follower(_registry(config), self._directory, keeper=True, written=written)
        self.admin = TenantAdmin(self._follower, now_s=time.time)
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Know what the registry knows, and keep it whole."""
        await _first_poll(self._follower)
        self._following = asyncio.create_task(self._follower.run(), name="registry")

    def configure(self, config: Config) -> None:
        """Put a changed configuration into force. The registry stays."""
        self._directory.configure(config)

    async def close(self) -> None:
        """Let go of the registry."""
        if self._following is not None:
            self._following.cancel()
        await self._follower.close()


def require_state(config: Config) -> None:
    """Make sure that the state's file can be used, where one is needed. Raises OSError or
    sqlite3.Error."""
    if not config.has_tenants or _redis(config) is not None:
        return
    file = config.state_file
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("SELECT count(*) FROM sqlite_master")


async def _first_poll(follower: Follower) -> None:
    """All of a registry that answers, however much there is in it."""
    try:
        await follower.poll()
    except RegistryUnavailable as error:
        log.error(  # noqa: TRY400 - no stack wanted
            "the registry of tenants and keys is away (%s): only those of the configuration are"
            " known until it is back",
            error,
        )


def _redis(config: Config) -> RedisSettings | None:
    chosen = config.limits.store
    return chosen.redis if isinstance(chosen, RedisChoice) else None


def _registry(config: Config) -> Registry:
    redis = _redis(config)
    if redis is None:
        return SqliteRegistry(config.state_file)
    make = connect_cluster if redis.cluster else connect
    client = make(redis.address, timeout_s=_REGISTRY_TIMEOUT_S)
    return RedisRegistry(client, timeout_s=_REGISTRY_TIMEOUT_S, prefix=redis.prefix)


def _store(config: Config, directory: Directory) -> LimitStore:
    settings, redis = config.limits, _redis(config)
    if redis is None:
        journal = Journal(
            config.state_file,
            usage_days=settings.usage_days,
            max_users_per_day=settings.max_users_per_day,
        )
        return MemoryStore(journal=journal)
    timeout_s = redis.timeout_ms / 1_000
    make = connect_cluster if redis.cluster else connect
    store = RedisStore(
        make(redis.address, timeout_s=timeout_s),
        timeout_s=timeout_s,
        usage_days=settings.usage_days,
        max_users_per_day=settings.max_users_per_day,
        prefix=redis.prefix,
    )

    def mode_of(tenant: str) -> OnStoreFailure:
        policy = directory.policy(tenant) or directory.unknown(tenant)
        return OnStoreFailure.OPEN if policy is None else policy.on_store_failure

    fallback = FallbackStore(store, mode_of=mode_of, share=_share(config))
    store.lost = fallback.lost
    return fallback


def _share(config: Config) -> Fraction:
    """Of every limit, for each picker while Redis is away."""
    redis = _redis(config)
    pickers = redis.share if redis is not None and redis.share else config.picker.workers
    return Fraction(1, pickers)
