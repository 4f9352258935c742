"""A pool's state in tests: endpoints, their signals, and sets of them."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from picker.state.endpoints import PoolState, Signals
from picker.state.spec import EndpointSpec

SIGNALS: Final = Signals(
    waiting_requests=2,
    running_requests=5,
    kv_usage=0.25,
    kv_capacity_tokens=100_000,
    kv_block_tokens=16,
    max_loras=4,
    running_adapters=frozenset({"a"}),
    waiting_adapters=frozenset({"a", "b"}),
)
A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"
SPECS: Final = st.lists(
    st.builds(
        EndpointSpec,
        st.sampled_from([A, B, C, "10.0.0.1:8001", "[fd00::1]:80", "[fd00::1]:81"]),
        st.booleans(),
    ),
    max_size=8,
)


def pool_with(*addresses: str, now_s: float = 100.0) -> PoolState:
    pool = PoolState("chat", stale_after_s=5.0)
    pool.sync([EndpointSpec(address) for address in addresses])
    for address in addresses:
        pool.apply_signals(address, SIGNALS, now_s)
    return pool


def candidates(pool: PoolState, now_s: float = 100.0) -> list[str]:
    return sorted(pool.address_of(int(slot)) for slot in pool.candidates(now_s))
