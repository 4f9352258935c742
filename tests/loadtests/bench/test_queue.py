"""The queue's benchmark, as far as it needs no quiet machine."""

from __future__ import annotations

import pytest

from loadtests.bench.figures import queue
from loadtests.bench.figures.measurement import Effort


def test_every_row_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_WAITING", 300)
    rows = queue.rows(Effort(quick=True, say=lambda _: None))
    assert [row.unit for row in rows] == ["us"] * 5 + ["kB"]
    assert all(row.value > 0 for row in rows[:3])
