"""Order of runs, and what a reader is told before the figures."""

from collections.abc import Mapping
from dataclasses import replace

from loadtests.lab.comparison import Cell, CellRun
from loadtests.lab.live.experiment import LiveExperiment
from loadtests.lab.live.measured import AnswerTokens, LiveDetails, totals
from loadtests.lab.live.runs import in_drawn_order
from loadtests.lab.live.strain import Strain
from loadtests.lab.live.target import parse
from loadtests.lab.page import page
from loadtests.lab.points import points
from loadtests.lab.replica_metrics import ReplicaCounters
from loadtests.lab.result import settings
from loadtests.lab.source import Source
from loadtests.lab.verdict import verdicts
from tests.loadtests.lab.outcomes import outcome, served

CALM = Strain(0.4, 0.1, 1.0, 0.2, 0.001, 0.002, 0.001, 0.002)
COUNTED = (ReplicaCounters(100, 50, 100, 11, 0, 1), ReplicaCounters(100, 0, 100, 11, 0, 1))


def comparison(seeds: int = 8) -> LiveExperiment:
    source = Source("fixed-corpus-saas")
    return LiveExperiment(
        source=source,
        levels=source.levels(rates=(1.0, 2.0)),
        targets=parse("penstock,envoy-round-robin,mine=http://127.0.0.1:1"),
        replicas=(2,),
        seeds=seeds,
        given=("127.0.0.1:8001", "127.0.0.1:8002"),
    )


def run(
    experiment: LiveExperiment,
    cell: Cell,
    *,
    strain: Strain = CALM,
    errors: Mapping[str, int] | None = None,
    said: Mapping[str, str] | None = None,
    caches_emptied: bool = True,
    uncounted: int = 0,
) -> CellRun:
    failed = sum((errors or {}).values())
    requests = [served(0.0, failed=index < failed) for index in range(4)]
    told = LiveDetails(
        strain,
        errors or {},
        said or {},
        AnswerTokens.of(requests),
        uncounted,
        COUNTED,
        caches_emptied,
        0,
    )
    whole = totals(duration_s=2.0, requests=4, failed=failed, by_replica=COUNTED, strain=strain)
    return experiment.run(cell, outcome(requests), whole, told)


def test_the_targets_of_a_seed_run_side_by_side_in_an_order_drawn_for_it() -> None:
    cells = list(comparison().cells())
    ordered = list(in_drawn_order(cells))
    assert sorted(map(str, (cell for _, cell in ordered))) == sorted(map(str, cells))
    threes = [ordered[start : start + 3] for start in range(0, len(ordered), 3)]
    for three in threes:
        assert len({(cell.level, cell.seed) for _, cell in three}) == 1
        assert [place for place, _ in three] == [0, 1, 2]
    assert len({tuple(cell.contender for _, cell in three) for three in threes}) > 2
    assert ordered == list(in_drawn_order(cells))


def test_a_run_that_went_well_needs_no_remark() -> None:
    experiment = comparison()
    assert experiment.remarks([run(experiment, cell) for cell in experiment.cells()]) == []


def test_what_a_reader_has_to_know_is_told() -> None:
    experiment = comparison(seeds=1).without("mine", "it does not answer")
    first, *rest = experiment.cells()
    runs = [run(experiment, cell) for cell in rest]
    runs.append(
        run(
            experiment,
            first,
            strain=replace(CALM, machine_busy_share=0.99),
            errors={"status 503": 2, "connection: ClientOSError": 1},
            said={"status 503": "no replica is healthy"},
            caches_emptied=False,
            uncounted=1,
        )
    )
    left_out, machine, caches, usage, failures = experiment.remarks(runs)
    assert left_out == "Left out: mine: it does not answer"
    assert machine.startswith("Not to be trusted, 1 of 4 runs: the machine was at its limit")
    assert "VLLM_SERVER_DEV_MODE=1" in caches
    assert usage.startswith("1 answers came without their usage")
    assert failures == (
        'penstock: 3 of 8 requests failed: status 503 (2), "no replica is healthy",'
        " connection: ClientOSError (1)"
    )
    together = points(experiment, runs)
    text = page(experiment, together, verdicts(together), {2: []}, settings(experiment), [left_out])
    assert "2 gateways compared" in text
    assert "Left out: mine" in text
    assert "every target had the same" in text


def test_what_the_replicas_count_is_among_the_figures() -> None:
    experiment = comparison()
    [point, *_] = points(experiment, [run(experiment, next(experiment.cells()))])
    assert point.mean("tokens_max_over_mean") == 111 * 2 / (61 + 111)
    assert point.mean("replicas_hit_rate") == 0.25
    assert point.mean("gateway_cpu_ms") == 250.0
