"""Reports of ends as messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.replication import ends
from picker.request.report import Ending, Report
from picker.wire import state_pb2

COUNT = st.none() | st.integers(0, 1 << 40)
SECONDS = st.floats(0, 1e6)
REPORT = st.builds(
    Report,
    id=st.text(max_size=5),
    owner=st.text(max_size=5),
    address=st.text(max_size=5),
    status=st.integers(0, 599),
    reason=st.sampled_from(Ending),
    duration_s=SECONDS,
    input_tokens=COUNT,
    output_tokens=COUNT,
    cached_tokens=COUNT,
    reasoning_tokens=COUNT,
    streamed_events=st.integers(0, 1 << 40),
    ttft_s=st.none() | SECONDS,
    ticket=st.just(""),
    upstream_failed=st.booleans(),
)


@given(REPORT)
def test_what_is_packed_comes_out_again(report: Report) -> None:
    message = state_pb2.Ended.FromString(ends.pack(report).SerializeToString())
    assert ends.unpack(message) == report


def test_a_reason_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError):
        ends.unpack(state_pb2.Ended(id="x", reason="whatever"))
