"""A picker worker's tenants while the configuration has some: gate, limits and accounts."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from gateway.config.config import Config
from gateway.control.accounts import AccountsServer
from gateway.limits.accounts import TenantAccounts
from gateway.limits.buckets import BucketStore
from gateway.limits.limiter import LimitObserver, TenantLimiter
from gateway.limits.outage_counters import OutageCounters
from gateway.limits.usage import UsageStore
from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.gate import TenantGate
from gateway.tenancy.registry import Registry, RegistryUnavailable


class PickerTenancy:
    """Use it from one event loop."""

    def __init__(
        self,
        directory: Directory,
        registry: Registry,
        *,
        buckets: BucketStore,
        usage: UsageStore,
        observer: LimitObserver,
        outage: OutageCounters | None,
    ) -> None:
        """``outage``: of the limit store; None: it cannot be down."""
        self._directory = directory
        self._follower = Follower(registry, directory)
        self.outage = outage
        self.gate = TenantGate(directory, now_s=time.time)
        self.limiter = TenantLimiter(
            buckets,
            policy_of=directory.policy_with,
            prices=lambda: directory.policies.prices,
            observer=observer,
            lease_s=directory.config.limits.lease_s,
        )
        self._accounts = AccountsServer(TenantAccounts(buckets, usage, directory.policy_with))

    async def start(self, socket: Path) -> None:
        """Learn all entries of the registry, and answer the supervisor on ``socket``."""
        await self._follower.start()
        self.limiter.start()
        await self._accounts.start(socket)

    def configure(self, config: Config) -> None:
        """Put a changed configuration into force. The limit store and the registry stay."""
        self.gate.configure(config)
        self.limiter.lease_s = config.limits.lease_s

    async def refresh(self) -> None:
        """Something was written to the registry: read it now."""
        with contextlib.suppress(RegistryUnavailable):  # it is read again soon
            await self._follower.poll()

    async def retire(self) -> None:
        """No requests come any more: stop to answer the supervisor and to follow the registry."""
        await self._accounts.stop()
        await self._follower.close()

    async def close(self) -> None:
        """Wait until everything that has ended is settled, and let go of the limit store."""
        await self.limiter.close()

    @property
    def expression_failures(self) -> int:
        """CEL evaluations that failed since the configuration came into force."""
        return self._directory.policies.failures

    @property
    def registry_failures(self) -> int:
        """Looks at the registry that failed, and entries of it that could not be read."""
        return self._follower.failures + self._directory.unreadable
