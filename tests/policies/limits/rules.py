"""Any rule, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from policies.limits.types import (
    MAX_LIMIT,
    MAX_PERIOD_MS,
    CalendarWindow,
    Concurrency,
    Lifetime,
    Period,
    TokenBucket,
)

AMOUNTS = st.integers(1, 20) | st.integers(1, MAX_LIMIT)
PERIODS_MS = st.integers(1, 2_000) | st.integers(1, MAX_PERIOD_MS)
TOKEN_BUCKETS = st.builds(TokenBucket, AMOUNTS, AMOUNTS, PERIODS_MS)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe"]
)
WINDOWS = st.builds(CalendarWindow, AMOUNTS, st.sampled_from(Period), ZONES)
LIFETIMES = st.builds(Lifetime, AMOUNTS, PERIODS_MS)
RULES = TOKEN_BUCKETS | WINDOWS | LIFETIMES | st.builds(Concurrency, AMOUNTS)
