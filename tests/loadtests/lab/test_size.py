"""The search for the smallest fleet, over runs made by hand."""

from dataclasses import replace

import pytest

from loadtests.lab.comparison import Cell, CellRun
from loadtests.lab.experiment import Experiment
from loadtests.lab.size import sizing_document, sizing_sentences, smallest_fleet
from loadtests.lab.source import LabError
from loadtests.lab.summary import Figures, Slo, Whole, Window, figures
from tests.loadtests.lab.conftest import Make
from tests.loadtests.lab.outcomes import outcome, served

_NOTHING = figures(outcome([served(0.0)]), Window(0.0, 1.0), Slo())
_WHOLE = Whole(1.0, 1, 0, 0, 0.5, 1.0, 1)


class Fleet:
    """Carries the load from a number of replicas on, with seed 2 a little later."""

    def __init__(self, enough: int, unlucky: int | None = None) -> None:
        self.enough = enough
        self.unlucky = unlucky
        self.tried: list[int] = []

    def __call__(self, experiment: Experiment) -> tuple[CellRun, ...]:
        self.tried.append(experiment.replicas[0])
        return tuple(self._run(cell) for cell in experiment.cells())

    def _run(self, cell: Cell) -> CellRun:
        share = 0.95 if cell.replicas >= self.enough - 1 + (cell.seed == 2) else 0.3
        share = 0.89 if cell.replicas == self.unlucky else share
        steady: Figures = replace(
            _NOTHING, good_share=share, ttft_p90_s=1.5 if share > 0.9 else 4.0, tpot_p90_s=0.04
        )
        return CellRun(cell, steady, (), _WHOLE, None)


@pytest.mark.parametrize("begin", [1, 4, 20])
@pytest.mark.parametrize("enough", [1, 2, 7, 8, 9, 33])
def test_the_smallest_fleet_is_found_from_wherever_the_search_begins(
    make: Make, begin: int, enough: int
) -> None:
    fleet = Fleet(enough)
    experiment = make(names="round-robin", rates=(5.0,), replicas=(begin,))
    found = smallest_fleet(experiment, fleet, most=64)
    assert found.smallest is not None
    assert found.smallest.replicas == enough
    assert len(fleet.tried) == len(set(fleet.tried)) <= 12
    below = found.one_fewer
    assert (below is None) == (enough == 1)
    # With one seed it does: every seed must.
    assert below is None or (below.share.value > below.worst and not below.met)


def test_an_answer_by_chance_is_told(make: Make) -> None:
    experiment = make(names="round-robin", rates=(5.0,), replicas=(1,))
    steady = smallest_fleet(experiment, Fleet(3))
    assert steady.one_more is not None
    assert steady.one_more.met
    found = smallest_fleet(experiment, Fleet(3, unlucky=4), most=3)
    assert found.smallest is not None
    assert found.one_more is None
    found = smallest_fleet(experiment, Fleet(4, unlucky=5))
    assert found.smallest is not None
    assert found.smallest.replicas == 4
    assert "which misses it: chance decides here" in sizing_sentences(experiment, found)[-1]


def test_it_is_told_by_how_much_the_slo_is_met(make: Make) -> None:
    experiment = make(names="round-robin", rates=(5.0,), replicas=(1,), seeds=2)
    found = smallest_fleet(experiment, Fleet(3))
    words = sizing_sentences(experiment, found)
    assert words[0] == (
        "3 replicas answer 90% of fixed-corpus-saas at 5 requests/s within TTFT 2 s and TPOT 50 ms,"
        " with round-robin."
    )
    assert "95.0 ± 0.0 % (the worst seed 95.0%)" in words[1]
    assert "TTFT p90 1.50 s, 25 % below its limit; TPOT p90 40 ms, 20 % below" in words[1]
    assert words[2].startswith("One fewer would answer 62.5")
    assert sizing_document(experiment, found)["replicas"] == 3


def test_a_slo_that_no_fleet_meets_is_told(make: Make) -> None:
    fleet = Fleet(10**6)
    experiment = make(names="round-robin", rates=(5.0,), replicas=(1,))
    found = smallest_fleet(experiment, fleet, most=10)
    assert found.smallest is None
    assert fleet.tried == [1, 2, 4, 8, 10]
    assert sizing_sentences(experiment, found)[0].startswith("Not even 10 replicas")


def test_one_policy_and_one_load_are_sized(make: Make) -> None:
    with pytest.raises(LabError, match="one policy and one load"):
        smallest_fleet(make(rates=(5.0,)), Fleet(1))
    single = make(names="round-robin", rates=(5.0,))
    with pytest.raises(LabError, match="share"):
        smallest_fleet(single, Fleet(1), wanted=0.0)
    with pytest.raises(LabError, match="1 to 2 replicas"):
        smallest_fleet(single, Fleet(1), most=2)
