"""What an ended request is charged, by its report alone."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from picker.flight.charge import charged, judged
from picker.request.report import Ending, Report
from policies.limits.prices import MOST, Usage

GOOD = Report(
    id="p0-1",
    owner="p0",
    address="10.0.0.1:8000",
    status=200,
    reason=Ending.OK,
    input_tokens=100,
    output_tokens=20,
    cached_tokens=None,
    streamed_events=0,
    ttft_s=None,
    duration_s=1.0,
)
EXPECTED = Usage(50, 30)


def test_what_the_engine_reports_counts() -> None:
    assert charged(GOOD, EXPECTED) == Usage(100, 20)


def test_a_request_that_can_use_nothing_is_not_charged_the_usage_it_reads() -> None:
    """A stored answer that is fetched tells the usage of when it was made."""
    assert charged(GOOD, Usage(0, 0)) == Usage(0, 0)
    assert charged(replace(GOOD, streamed_events=9), Usage(0, 0)) == Usage(0, 0)


@pytest.mark.parametrize("reason", [Ending.ENGINE_ERROR, Ending.NO_OUTPUT, Ending.UPSTREAM_ERROR])
def test_what_failed_is_charged_for_what_was_streamed(reason: Ending) -> None:
    failed = replace(GOOD, reason=reason, output_tokens=None)
    assert charged(failed, EXPECTED) is None, "its prompt neither"
    assert charged(replace(failed, output_tokens=0), EXPECTED) is None
    assert charged(replace(failed, input_tokens=None), EXPECTED) is None
    assert charged(replace(failed, streamed_events=3), EXPECTED) == Usage(100, 3)
    assert charged(replace(failed, output_tokens=7), EXPECTED) == Usage(100, 7)


def test_where_no_model_runs_an_answer_may_be_empty_or_tell_of_an_error() -> None:
    for reason in (Ending.ENGINE_ERROR, Ending.NO_OUTPUT):
        assert judged(reason, Usage(0, 0)) is Ending.OK
        assert charged(replace(GOOD, reason=reason), Usage(0, 0)) == Usage(0, 0)
        assert judged(reason, EXPECTED) is reason


def test_no_more_is_charged_than_can_be(caplog: pytest.LogCaptureFixture) -> None:
    absurd = replace(
        GOOD,
        input_tokens=2**31 - 1,
        output_tokens=2**31 - 1,
        cached_tokens=2**31 - 1,
        reasoning_tokens=2**31 - 1,
    )
    with caplog.at_level(logging.WARNING):
        assert charged(absurd, EXPECTED, possible=Usage(600, 300)) == Usage(600, 300, 600, 300)
    assert "at most 600 and 300" in caplog.text
    most = charged(absurd, EXPECTED)
    assert most is not None
    assert (most.input_tokens, most.output_tokens) == (MOST.input_tokens, MOST.output_tokens)


@pytest.mark.parametrize(("reason", "status"), [("client_aborted", 0), ("evicted", 429)])
def test_who_leaves_or_is_evicted_early_is_charged_its_prompt_once_the_engine_began(
    reason: str, status: int
) -> None:
    left = replace(
        GOOD, status=status, reason=Ending(reason), input_tokens=None, output_tokens=None
    )
    assert charged(left, EXPECTED) == Usage(50, 0)
    assert charged(left, EXPECTED, began=False) == Usage(0, 0)
    assert charged(replace(left, address=""), EXPECTED) is None


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 499])
def test_what_an_engine_refuses_counts_as_a_request(status: int) -> None:
    refused = replace(
        GOOD, status=status, reason=Ending.HTTP_ERROR, input_tokens=None, output_tokens=None
    )
    assert charged(refused, EXPECTED) == Usage(0, 0)
    assert charged(replace(refused, status=500), EXPECTED) is None
    assert charged(replace(refused, address=""), EXPECTED) is None
