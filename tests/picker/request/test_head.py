"""What a request's headers say."""

from __future__ import annotations

from math import inf

import pytest

from picker import names
from tests.picker.fleet import head


@pytest.mark.parametrize(
    ("value", "time_s"),
    [("250", 0.25), (" 1.5 ", 0.0015), ("0", inf), ("-3", inf), ("soon", inf), ("nan", inf)],
)
def test_an_objective_is_a_time_and_anything_else_is_none(value: str, time_s: float) -> None:
    assert head(x_llm_d_slo_ttft_ms=value).time_s(names.TTFT_OBJECTIVE_MS) == time_s
    assert head(x_slo_tpot_ms=value).time_s(names.TPOT_OBJECTIVE_MS) == time_s
    both = head(x_slo_tpot_ms="7", x_llm_d_slo_tpot_ms=value)
    assert both.time_s(names.TPOT_OBJECTIVE_MS) == time_s
    assert head().time_s(names.TTFT_OBJECTIVE_MS) == inf
