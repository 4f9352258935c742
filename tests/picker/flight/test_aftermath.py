"""What is done after a picker has died, and when."""

from __future__ import annotations

import pytest
from msgspec import structs

from picker.flight.aftermath import GRACE_S, SUSPECT_S, Aftermath
from picker.request.report import Ending, Report

REPORT = Report("p1-1", "p1", "10.0.0.1:8000", 200, Ending.OK, 1.0, ticket="a ticket")


@pytest.mark.parametrize("death_first", [True, False])
def test_a_report_of_a_picker_that_was_seen_to_die_is_an_orphan_at_once(
    *, death_first: bool
) -> None:
    aftermath = Aftermath()
    aftermath.pickers_live({"p0", "p1"}, 90.0)
    assert not aftermath.report_of_another(REPORT, 100.0)
    assert not list(aftermath.orphans(100.0))
    news = [
        lambda now_s: aftermath.picker_died(set(), now_s),
        lambda now_s: aftermath.pickers_live({"p0", "p2"}, now_s),
    ]
    for number, happens in enumerate(news if death_first else reversed(news)):
        happens(100.1 + number)
        assert list(aftermath.orphans(100.1 + number)) == [REPORT] * number
    assert aftermath.report_of_another(structs.replace(REPORT, id="p1-2"), 101.2)
    assert not list(aftermath.orphans(200.0)), "each once"


def test_a_picker_that_is_only_gone_has_time_to_settle() -> None:
    """It may be about to end, or be cut off for a moment; another one has died long before."""
    aftermath = Aftermath()
    aftermath.pickers_live({"p0", "p1"}, 90.0)
    aftermath.picker_died(set(), 90.0)
    aftermath.pickers_live({"p0"}, 95.0)
    assert not aftermath.report_of_another(REPORT, 100.0)
    assert not list(aftermath.orphans(100.0))
    aftermath.pickers_live({"p0", "p1"}, 100.1)
    assert not list(aftermath.orphans(200.0))


def test_a_report_of_a_picker_that_was_never_seen_waits() -> None:
    """It may have begun a moment ago."""
    aftermath = Aftermath()
    aftermath.pickers_live({"p0"}, 90.0)
    assert not aftermath.report_of_another(REPORT, 100.0)
    assert not list(aftermath.orphans(100.0 + GRACE_S - 0.1))
    assert list(aftermath.orphans(100.0 + GRACE_S)) == [REPORT]
    assert not list(aftermath.orphans(200.0)), "each once"


@pytest.mark.parametrize("live", [{"p0", "p1"}, set[str]()])
def test_a_report_whose_owner_runs_or_may_run_is_no_orphan(live: set[str]) -> None:
    aftermath = Aftermath()
    aftermath.pickers_live(live, 90.0)
    assert not aftermath.report_of_another(REPORT, 100.0)
    assert not list(aftermath.orphans(200.0))


def test_what_is_unknown_for_a_while_says_nothing_of_a_death() -> None:
    aftermath = Aftermath()
    for live in ({"p0", "p1"}, set[str](), {"p0", "p1"}):
        aftermath.pickers_live(live, 90.0)
        assert not aftermath.report_of_another(REPORT, 100.0)
    assert not list(aftermath.orphans(200.0))


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
