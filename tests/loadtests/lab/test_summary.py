"""Figures of outcomes made by hand."""

from dataclasses import astuple, replace

import pytest

from loadtests.lab.outcome import Outcome, Sample
from loadtests.lab.summary import (
    Cut,
    Slo,
    Window,
    by_tenant,
    figures,
    stage_windows,
    timeline,
    whole,
)
from loadtests.workloads.arrivals import Stage
from tests.loadtests.lab.outcomes import outcome, served

ALL = Window(0.0, 1000.0)
SLO = Slo(ttft_s=2.0, tpot_s=0.1)


def test_latencies_are_those_of_the_answered_requests() -> None:
    requests = [served(float(at), ttft_s=1.0 + at, tpot_s=0.1 * (1 + at)) for at in range(3)]
    requests.append(served(3.0, ttft_s=None, output_tokens=0, failed=True))
    found = figures(outcome(requests), ALL, SLO)
    assert found.ttft_mean_s == pytest.approx(2.0)
    assert found.ttft_p50_s == pytest.approx(2.0)
    assert found.ttft_p90_s == pytest.approx(2.8)
    assert found.tpot_p50_s == pytest.approx(0.2)
    assert found.latency_mean_s == pytest.approx((2.0 + 4.0 + 6.0) / 3)
    assert (found.requests, found.failed, found.refused) == (4, 1, 0)


def test_an_answer_is_good_when_first_and_other_tokens_are_in_time() -> None:
    requests = [
        served(0.0, ttft_s=2.0, tpot_s=0.0625),
        served(1.0, ttft_s=2.5, tpot_s=0.0625),
        served(2.0, ttft_s=1.0, tpot_s=0.25),
        served(3.0, ttft_s=1.0, output_tokens=1),  # has no TPOT to miss
        served(4.0, ttft_s=1.0, failed=True),
    ]
    found = figures(outcome(requests), Window(0.0, 10.0), SLO)
    assert found.good_share == pytest.approx(2 / 5)
    assert found.goodput_per_s == pytest.approx(0.2)


def test_a_refused_request_counts_as_failed_and_as_refused() -> None:
    refused = served(0.0, ttft_s=None, output_tokens=0, replica=-1, failed=True)
    found = figures(outcome([refused]), ALL, SLO)
    assert (found.requests, found.failed, found.refused) == (1, 1, 1)
    assert found.ttft_mean_s is None
    assert found.good_share == 0.0
    assert found.hit_rate is None


def test_tokens_on_the_edge_of_a_window_count_in_part() -> None:
    # First token at 1 s, then ten more until 11 s: half of the answer lies after 6 s.
    one = served(0.0, ttft_s=1.0, output_tokens=11, tpot_s=1.0, input_tokens=500)
    early = figures(outcome([one]), Window(0.0, 6.0), SLO)
    late = figures(outcome([one]), Window(6.0, 11.0), SLO)
    assert early.input_tokens_per_s * 6.0 == pytest.approx(500)
    assert early.output_tokens_per_s * 6.0 == pytest.approx(5.5)
    assert late.input_tokens_per_s == 0.0
    assert late.output_tokens_per_s * 5.0 == pytest.approx(5.5)
    assert late.requests == 0


def test_hit_rates_are_of_tokens_not_of_requests() -> None:
    requests = [
        served(0.0, input_tokens=900, cached_tokens=600, expected_cached_tokens=450.0),
        served(1.0, input_tokens=100),
    ]
    found = figures(outcome(requests), ALL, SLO)
    assert found.hit_rate == pytest.approx(0.6)
    assert found.expected_hit_rate == pytest.approx(0.45)


def test_the_spread_of_requests_in_flight_is_over_replicas_at_an_instant() -> None:
    samples = [
        Sample(0.0, 0, 4, 0, 0.1), Sample(0.0, 1, 0, 0, 0.0),  # all on one: deviation = mean
        Sample(1.0, 0, 1, 1, 0.1), Sample(1.0, 1, 2, 0, 0.1),  # even
        Sample(2.0, 0, 0, 0, 0.0), Sample(2.0, 1, 0, 0, 0.0),  # nothing to be uneven
    ]  # fmt: skip
    found = figures(outcome([served(0.0)], samples=samples), ALL, SLO)
    assert found.in_flight_cv == pytest.approx(0.5)


def test_the_whole_run_tells_busy_time_and_preemptions() -> None:
    one = served(0.0, ttft_s=1.0, output_tokens=10, tpot_s=1.0)
    found = whole(outcome([one], busy_s=[6.0, 2.0], preemptions=3))
    assert found.busy_max_over_mean == pytest.approx(1.5)
    assert found.busy_share == pytest.approx(0.4)
    assert (found.preemptions, found.requests) == (3, 1)


def test_nothing_is_busy_in_a_run_without_steps() -> None:
    assert whole(Outcome(busy_s=[0.0, 0.0])).busy_max_over_mean is None


def test_the_window_leaves_out_the_beginning_by_time_and_the_end_by_requests() -> None:
    run = outcome([served(float(at)) for at in range(101)])
    window = Cut(warm_up=0.2, cool_down=0.1).window(run)
    assert window.end_s == 91.0  # nine tenths of 101 are 90.9
    assert window.begin_s == pytest.approx(18.2)
    assert figures(run, window, SLO).requests == 72


def test_without_cuts_the_window_is_the_whole_run_to_its_last_answer() -> None:
    run = outcome([served(0.0), served(5.0, ttft_s=4.0)])
    window = Cut(0.0, 0.0).window(run)
    found = figures(run, window, SLO)
    assert found.requests == 2
    assert window.end_s == pytest.approx(10.0)
    assert found.output_tokens_per_s * window.span_s == pytest.approx(22)
    assert found.finished_per_s * window.span_s == pytest.approx(2)


def test_requests_that_all_come_at_once_are_all_counted() -> None:
    run = outcome([served(0.0) for _ in range(10)])
    assert figures(run, Cut().window(run), SLO).requests == 10


def test_a_run_without_requests_is_no_run() -> None:
    with pytest.raises(ValueError, match="nothing to summarize"):
        Cut().window(Outcome())


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_cut_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="warm_up"):
        Cut(warm_up=share)


def test_each_request_belongs_to_one_stage() -> None:
    run = outcome([served(at / 2) for at in range(60)])
    windows = stage_windows([Stage(1, 10), Stage(2, 15), Stage(3, 5)])
    assert [astuple(window) for window in windows] == [(0, 10), (10, 25), (25, 30)]
    assert [figures(run, window, SLO).requests for window in windows] == [20, 30, 10]


def test_a_timeline_has_at_most_as_many_columns() -> None:
    samples = [
        Sample(float(at), replica, at, replica, 0.5) for at in range(10) for replica in range(2)
    ]
    found = timeline(outcome([served(0.0)], samples=samples), bins=5)
    assert found.column_s == pytest.approx(2.0)
    assert found.in_flight == ((0.5, 2.5, 4.5, 6.5, 8.5), (1.5, 3.5, 5.5, 7.5, 9.5))
    assert found.kv_usage[0] == (0.5,) * 5


def test_the_largest_tenth_and_what_was_captured_and_predicted() -> None:
    small = [served(float(at), ttft_s=1.0, input_tokens=100) for at in range(9)]
    large = served(9.0, ttft_s=8.0, input_tokens=1000, cached_tokens=300)
    requests = [
        replace(each, best_cached_tokens=50, predicted_ttft_s=1.1, predicted_tpot_s=0.09)
        for each in small
    ]
    requests.append(replace(large, best_cached_tokens=350))
    found = figures(outcome(requests), ALL, SLO)
    assert found.largest_ttft_p99_s == pytest.approx(8.0)
    assert found.captured_reuse == pytest.approx(300 / (9 * 50 + 350))
    assert found.ttft_error == pytest.approx(0.1)
    assert found.tpot_error == pytest.approx(0.1)
    unknown = figures(outcome(small), ALL, SLO)
    assert (unknown.captured_reuse, unknown.ttft_error, unknown.tpot_error) == (None, None, None)


def test_each_tenant_has_its_own_figures() -> None:
    quick = [replace(served(float(at), ttft_s=1.0), tenant="quick") for at in range(3)]
    slow = replace(served(4.0, ttft_s=9.0), tenant="slow")
    refused = replace(served(5.0, ttft_s=None, output_tokens=0, failed=True), tenant="slow")
    found = by_tenant(outcome([*quick, slow, refused]), ALL, SLO)
    assert [(each.tenant, each.requests) for each in found] == [("quick", 3), ("slow", 2)]
    assert [each.ttft_p90_s for each in found] == [pytest.approx(1.0), pytest.approx(9.0)]
    assert found[1].good_share == 0.0
    assert by_tenant(outcome(quick), ALL, SLO) == ()
