"""What is kept over restarts."""

from __future__ import annotations

from gateway.limits.memory.batch import lasts
from tests.gateway.limits.memory.test_journal import RULES


def test_which_buckets_last() -> None:
    assert [name for name, rule in RULES.items() if lasts(rule)] == [
        "month",
        "hour",
        "daily",
        "burst",
    ]
