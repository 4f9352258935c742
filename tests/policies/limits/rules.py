"""Any rule, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from policies.limits.types import (
    MAX_LIMIT,
    MAX_PERIOD_MS,
    CalendarWindow,
    Concurrency,
    Period,
    TokenBucket,
)

AMOUNTS = st.integers(1, 20) | st.integers(1, MAX_LIMIT)
PERIODS_MS = st.integers(1, 2_000) | st.integers(1, MAX_PERIOD_MS)
TOKEN_BUCKETS = st.builds(TokenBucket, AMOUNTS, AMOUNTS, PERIODS_MS)
WINDOWS = st.builds(CalendarWindow, AMOUNTS, st.sampled_from(Period))
RULES = TOKEN_BUCKETS | WINDOWS | st.builds(Concurrency, AMOUNTS)
