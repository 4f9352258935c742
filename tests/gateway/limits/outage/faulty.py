"""A store that fails before or after doing what it was asked, and that can lose its data."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from typing import TypeVar

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.memory.store import MemoryStore
from gateway.limits.usage import UsageRecord
from policies.limits.types import Bucket, Standing, Take
from policies.limits.verdict import Verdict

NOW_MS = 1_772_400_000_000
T = TypeVar("T")


class FaultyStore:
    """A `RemoteStore` over a memory store."""

    volatile = False
    waits = True

    def __init__(self) -> None:
        self.inner = MemoryStore(clock_ms=lambda: NOW_MS)
        self.fails: Callable[[], tuple[bool, StoreUnavailable | None]] = lambda: (False, None)
        """Of a call: whether it is done before it fails, and how it fails; None: it does not."""

    def lose_data(self) -> None:
        self.inner = MemoryStore(clock_ms=lambda: NOW_MS)

    async def _perhaps(self, call: Callable[[MemoryStore], Awaitable[T]]) -> T:
        await asyncio.sleep(0)
        done_before, error = self.fails()
        if error is not None and not done_before:
            raise error
        result = await call(self.inner)
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return result

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        return await self._perhaps(lambda s: s.reserve(slot, reservation_id, takes, lease_s))

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        return await self._perhaps(lambda s: s.adopt(slot, reservation_id, takes, lease_s))

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        return await self._perhaps(lambda s: s.renew(slot, reservation_ids, lease_s))

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        return await self._perhaps(lambda s: s.settle(slot, reservation_id, charges, usage))

    async def release(self, slot: str, reservation_id: str) -> bool:
        return await self.settle(slot, reservation_id, {})

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        return await self.inner.standing(slot, buckets)

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        return await self.inner.usage(slot, first, last)

    async def usage_slots(self, first: date, last: date) -> list[str]:
        return await self.inner.usage_slots(first, last)

    async def check(self) -> None:
        await self._perhaps(lambda _: asyncio.sleep(0))

    async def close(self) -> None:
        await self.inner.close()
