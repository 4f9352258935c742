"""The supervisor's tenants: what operators read and write."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gateway.config.config import Config
from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.key_admin import KeyAdmin
from gateway.tenancy.registry import Registry
from gateway.tenancy.tenant_admin import TenantAdmin


class SupervisorTenancy:
    """Use it from one event loop."""

    def __init__(
        self, directory: Directory, registry: Registry, written: Callable[[], Awaitable[None]]
    ) -> None:
        """``written`` is called after each write, and returns when the pickers here have read
        it."""
        self._directory = directory
        self._follower = Follower(registry, directory, keeper=True, written=written)
        self.admin = TenantAdmin(self._follower, KeyAdmin(self._follower, now_s=time.time))

    async def start(self) -> None:
        """Learn all entries of the registry, and write back those that it loses."""
        await self._follower.start()

    def configure(self, config: Config) -> None:
        """Put a changed configuration into force. The registry stays."""
        self._directory.configure(config)

    async def close(self) -> None:
        """Let go of the registry."""
        await self._follower.close()
