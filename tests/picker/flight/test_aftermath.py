"""What is done after a picker has died, and when."""

from __future__ import annotations

from picker.flight.aftermath import GRACE_S, SUSPECT_S, Aftermath
from picker.request.report import Ending, Report

REPORT = Report("p1-1", "p1", "10.0.0.1:8000", 200, Ending.OK, 1.0, ticket="a ticket")


def test_an_owner_has_time_to_settle_before_its_report_is_an_orphan() -> None:
    aftermath = Aftermath()
    aftermath.report_of_another(REPORT, 100.0)
    assert not list(aftermath.orphans({"p0"}, 100.0 + GRACE_S - 0.1))
    assert list(aftermath.orphans({"p0"}, 100.0 + GRACE_S)) == [REPORT]
    assert not list(aftermath.orphans({"p0"}, 200.0)), "each once"


def test_a_report_whose_owner_runs_or_may_run_is_no_orphan() -> None:
    for live in ({"p0", "p1"}, set[str]()):
        aftermath = Aftermath()
        aftermath.report_of_another(REPORT, 100.0)
        assert not list(aftermath.orphans(live, 200.0))


def test_what_was_under_way_when_a_picker_died_is_suspect_until_it_ends() -> None:
    aftermath, under_way = Aftermath(), {"a", "b"}
    aftermath.picker_died(under_way, 100.0)
    under_way.add("later")
    assert not list(aftermath.suspects(under_way, 100.0 + GRACE_S - 0.1))
    assert set(aftermath.suspects(under_way, 100.0 + GRACE_S)) == {("a", False), ("b", False)}
    under_way.remove("a")
    assert list(aftermath.suspects(under_way, 100.0 + SUSPECT_S - 0.1)) == [("b", False)]
    assert list(aftermath.suspects(under_way, 100.0 + SUSPECT_S)) == [("b", True)]
    assert not list(aftermath.suspects(under_way, 200.0 + SUSPECT_S))
