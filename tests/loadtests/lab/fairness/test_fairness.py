"""The experiments on fairness, on a case that takes a moment, and their figures by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from typer.testing import CliRunner

from loadtests.lab.command import app
from loadtests.lab.commands.fairness import _replaced
from loadtests.lab.fairness import cases as of
from loadtests.lab.fairness.cases import ALIKE, NO_QUEUE, ORDERS, Case, cases
from loadtests.lab.fairness.figures import _apart, _waits_always, jain, measure
from loadtests.lab.fairness.page import page
from loadtests.lab.fairness.runs import Run, do, kept, runs
from loadtests.lab.outcome import Outcome
from loadtests.lab.source import LabError
from loadtests.lab.summary import Window
from policies import registry
from tests.loadtests.lab.outcomes import served


def test_every_run_has_a_file_and_every_order_is_there() -> None:
    planned = list(runs(cases(), (11, 12), ORDERS))
    assert len({run.file_name for run in planned}) == len(planned)
    assert {*ORDERS} - {NO_QUEUE} == {*registry.names("order")}
    assert {run.order for run in planned} == {*ORDERS}
    assert all({*case.orders} <= {*ORDERS} for case in cases())


@pytest.fixture
def case() -> Case:
    """Two tenants; one sends what the pool cannot serve."""
    senders = (of.Sender("one", 2.0), of.Sender("four", 60.0))
    window = Window(2.0, 8.0)
    return Case(of.BACKLOGGED, of.WEIGHTS, senders, 8.0, window, replicas=1, orders=ALIKE)


def test_what_is_kept_is_shown(case: Case, tmp_path: Path) -> None:
    for order in ("fair", NO_QUEUE):
        run = Run(case, order, 1)
        assert kept(tmp_path, run) is None
        do(run, tmp_path)
    result = kept(tmp_path, Run(case, "fair", 1))
    assert result is not None
    assert set(result["tenants"]) == {"one", "four"}  # type: ignore[call-overload]

    def found(case: Case, order: str) -> list[dict[str, object]]:
        known = kept(tmp_path, Run(case, order, 1))
        return [] if known is None else [known]

    text = page([case], found)
    assert text.startswith("**Not all runs are done.**")
    assert "### All wait: weights 1, 2, 4" in text
    assert "| no queue |" in text
    assert "nan" not in text
    assert not page([replace(case, orders=("fair", NO_QUEUE))], found).startswith("**")


def test_orders_differ_in_who_waits(case: Case) -> None:
    waits: dict[str, float] = {}
    for order in ("fair", "first-come"):
        outcome = Run(case, order, 1).outcome()
        assert outcome.items
        waits[order] = fmean(each.queued_s for each in outcome.served if each.tenant == "one")
    assert waits["fair"] < waits["first-come"] / 2


def test_jain_is_one_for_equals_and_a_share_for_one_that_has_all() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([5.0, 0.0]) == pytest.approx(0.5)
    assert jain([0.0, 0.0]) == 1.0


def test_how_far_two_are_apart_over_any_part_of_the_time() -> None:
    one = [(1.0, 10.0), (2.0, 10.0), (5.0, 10.0)]
    other = [(3.0, 25.0), (4.0, 5.0)]
    assert _apart(one, other) == 30.0


def test_tenants_count_as_waiting_when_something_of_theirs_always_does() -> None:
    first = replace(served(0.0), queued_s=5.0)
    second = replace(served(4.0), queued_s=6.0)
    assert _waits_always([first, second], Window(1.0, 9.0))
    assert not _waits_always([first, second], Window(1.0, 11.0))
    assert not _waits_always([second], Window(1.0, 9.0))


def test_a_run_in_which_nothing_waits_has_no_gap(case: Case) -> None:
    done = Outcome([replace(served(5.0), tenant="one")])
    figures = measure(case, done)
    assert figures["gap"] is None


def test_tables_are_replaced_in_a_page() -> None:
    begin, end = "<!-- tables: penstock lab fairness -->\n", "<!-- end of the tables -->\n"
    assert _replaced(f"x\n{begin}old{end}y", "new") == f"x\n{begin}\nnew\n{end}y"
    with pytest.raises(LabError, match="has no lines"):
        _replaced("x", "new")


def test_an_unknown_order_is_refused(tmp_path: Path) -> None:
    words = ["fairness", "--keep", str(tmp_path), "--orders", "fair,last-come"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "'last-come' is none of fair, no queue" in result.stderr
