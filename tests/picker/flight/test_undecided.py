"""Requests that end before they are decided: each leaves one line, with the reason."""

from __future__ import annotations

import pytest
from msgspec import structs

from picker.request.context import RequestContext
from picker.request.labels import RequestLabels
from picker.request.report import Ending, Report
from picker.seams.observer import Rejected
from tests.picker.fleet import Fleet, fleet, head

LABELS = RequestLabels("known to Envoy", "anonymous", "", "main", "/v1/chat/completions")
DEAD = Report("p9-1", "p9", "", 503, Ending.HTTP_ERROR, 0.5, code="picker_unavailable")


def ended(context: RequestContext, status: int = 0, code: str = "client_aborted") -> Report:
    reason = Ending.HTTP_ERROR if status else Ending.CLIENT_ABORTED
    return Report(context.id, "p0", "", status, reason, 1.0, code=code)


async def begun(made: Fleet, request_id: str = "r") -> RequestContext:
    context = await made.picker.begin(head(x_request_id=request_id))
    assert isinstance(context, RequestContext)
    made.picker.expect(context)
    return context


def lines(made: Fleet) -> list[tuple[str, int, str]]:
    return [(one.labels.request_id, one.status, one.reason) for one in made.seen.rejections]


@pytest.mark.parametrize("report_first", [True, False])
@pytest.mark.parametrize(("status", "code"), [(0, "client_aborted"), (503, "picker_unavailable")])
async def test_the_data_plane_says_why_in_either_order(
    status: int, code: str, *, report_first: bool
) -> None:
    made = fleet()
    context = await begun(made)
    if report_first:
        made.picker.complete(ended(context, status, code))
    else:
        made.picker.left(context)
    assert not lines(made)
    if report_first:
        made.picker.left(context)
    else:
        made.picker.complete(ended(context, status, code))
    made.picker.complete(ended(context, status, code))
    made.clock.now_s += 1000
    made.picker.flights.tick()
    assert lines(made) == [("r", status, code)]
    assert made.is_settled


async def test_what_is_answered_is_no_end_of_another_kind() -> None:
    made = fleet()
    context = await begun(made)
    assert await made.picker.offer(context, b"{") is not None
    made.picker.over(context)
    made.picker.complete(ended(context))
    assert [reason for _, _, reason in lines(made)] == ["invalid_json"]


async def test_an_end_that_is_never_reported_is_logged_in_the_end() -> None:
    made = fleet()
    for number in range(3):
        made.picker.left(await begun(made, f"r{number}"))
    made.picker.flights.tick()
    assert not lines(made)
    made.picker.refused_by_proxy(Rejected(structs.replace(LABELS, request_id="r1"), 503, "x", 0.0))
    made.clock.now_s += 61
    made.picker.flights.tick()
    wanted = [("r1", 503, "x"), ("r0", 0, "unreported"), ("r2", 0, "unreported")]
    assert lines(made) == wanted, "Envoy refused r1 before it had its id"


async def test_a_data_plane_that_is_started_anew_reports_no_ends() -> None:
    made = fleet()
    made.picker.left(await begun(made))
    made.picker.flights.proxy_restarted()
    assert lines(made) == [("r", 0, "unreported")]


async def test_a_request_that_nobody_reports_is_logged_at_once() -> None:
    """Of somebody else's gateway."""
    made = fleet()
    context = await made.picker.begin(head(x_request_id="r"))
    assert isinstance(context, RequestContext)
    made.picker.left(context)
    assert lines(made) == [("r", 0, "client_aborted")]


@pytest.mark.parametrize("code", ["picker_unavailable", ""])
def test_what_a_dead_picker_had_is_logged_by_who_hears_of_its_end(code: str) -> None:
    made = fleet()
    flights = made.picker.flights
    flights.pickers_live(["p0"])
    made.picker.complete(structs.replace(DEAD, code=code, labels=LABELS))
    assert not lines(made)
    made.clock.now_s += 3
    flights.tick()
    flights.tick()
    done = [(one.labels.request_id, one.status, one.reason) for one in made.seen.completions]
    wanted = [("known to Envoy", 503, code or "http_error")]
    assert (lines(made), done) == ((wanted, []) if code else ([], wanted))


@pytest.mark.parametrize(("before_s", "logged"), [(1.0, False), (0.1, True)])
def test_what_a_picker_has_logged_before_it_died_is_not_logged_again(
    before_s: float, *, logged: bool
) -> None:
    made = fleet()
    flights = made.picker.flights
    flights.pickers_live(["p0", "p9"])
    made.picker.complete(structs.replace(DEAD, labels=LABELS))
    made.clock.now_s += before_s
    flights.picker_died()
    flights.pickers_live(["p0"])
    made.clock.now_s += 3
    flights.tick()
    assert bool(lines(made)) == logged


def test_what_a_picker_has_logged_before_it_left_is_not_logged_again() -> None:
    made = fleet()
    flights = made.picker.flights
    flights.pickers_live(["p0", "p9"])
    made.picker.complete(structs.replace(DEAD, labels=LABELS))
    flights.pickers_live(["p0"])
    made.clock.now_s += 3
    flights.tick()
    assert not lines(made)
