"""What the tests of outages are made with."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction

from gateway.limits.memory.store import MemoryStore
from gateway.limits.outage.fallback import FallbackStore, RemoteStore
from gateway.limits.outage.local import LocalLimits
from gateway.limits.redis.store import RedisStore
from policies.limits.plan import OnStoreFailure

WHOLE = Fraction(1)


def fallback(
    store: RemoteStore,
    mode: OnStoreFailure,
    *,
    share: Callable[[], Fraction] = lambda: WHOLE,
    failures: int = 3,
    retry_s: float = 0.2,
    max_retry_s: float = 1.0,
    max_pending: int = 100_000,
    close_s: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
    clock_ms: Callable[[], int] | None = None,
) -> FallbackStore:
    """As it is composed, with one mode for all tenants. ``clock_ms``: that of the share."""
    return FallbackStore(
        store,
        patient=store.patient() if isinstance(store, RedisStore) else store,
        local=LocalLimits(MemoryStore(clock_ms=clock_ms), mode_of=lambda _: mode, share=share),
        failures=failures,
        retry_s=retry_s,
        max_retry_s=max_retry_s,
        max_pending=max_pending,
        close_s=close_s,
        clock=clock,
    )
