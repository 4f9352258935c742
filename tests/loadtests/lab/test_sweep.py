"""Sweeps: the same bytes whatever the number of processes, and every request once."""

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from loadtests.lab.experiment import run_cell
from loadtests.lab.points import difference, points
from loadtests.lab.result import document, dumped
from loadtests.lab.simulation import Simulation
from loadtests.lab.source import DEFAULT_DURATION_S, LabError
from loadtests.lab.summary import Cut
from loadtests.lab.sweep import sweep
from loadtests.workloads.summary import walk
from picker.request.answer import Answer, Decision
from picker.request.context import RequestContext
from picker.request.report import Report
from picker.settings import PickerSettings
from tests.loadtests.lab.conftest import Make

WORKLOADS = [
    "interactive-chat", "code-generation", "fixed-corpus-saas", "agentic-bursts", "lora-mix",
    "multi-tenant",
]  # fmt: skip


def test_the_same_seeds_give_the_same_bytes_whatever_the_number_of_jobs(make: Make) -> None:
    # lora-mix: adapters go through sets of strings, whose order differs between processes.
    experiment = make("lora-mix", "round-robin,weighted,power-of-two", rates=(5.0, 10.0))
    alone = dumped(document(experiment, sweep(experiment, jobs=1)))
    assert dumped(document(experiment, sweep(experiment, jobs=2))) == alone


def test_another_seed_gives_another_result(make: Make) -> None:
    experiment = make(rates=(10.0,))
    first, second = list(experiment.cells())[:2]
    assert (first.seed, second.seed) == (1, 2)
    assert run_cell(experiment, first).steady != run_cell(experiment, second).steady


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_request_is_served_once_and_none_of_its_tokens_is_lost(
    make: Make, workload: str
) -> None:
    experiment = make(workload, "llm-d-token-aware", concurrencies=(14,), requests=80)
    cell = next(experiment.cells())
    traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
    asked: dict[str, tuple[int, int]] = {}
    take = traffic.take

    def recorded(now_s: float) -> list[object]:
        taken = take(now_s)
        asked.update({each.id: (each.prompt_tokens, each.output_tokens) for each in taken})
        return list(taken)

    traffic.take = recorded  # type: ignore[method-assign,assignment]
    served = Simulation(experiment.setting(cell), traffic, seed=1).run().served
    assert traffic.in_flight == 0
    assert len(asked) == 80
    assert Counter(each.id for each in served) == Counter(list(asked))
    for each in served:
        assert not each.failed
        assert (each.input_tokens, each.output_tokens) == asked[each.id]
        assert each.cached_tokens is not None
        assert 0 <= each.cached_tokens < each.input_tokens
        assert each.first_token_s is not None
        assert each.arrival_s < each.first_token_s <= each.finished_s


def test_all_tokens_are_in_the_figures_of_a_run_that_is_not_cut(make: Make) -> None:
    experiment = make(rates=(10.0,), seeds=1)
    cell = next(experiment.cells())
    traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
    outcome = Simulation(experiment.setting(cell), traffic, seed=cell.seed).run()
    window = Cut(0, 0).window(outcome)
    found = run_cell(replace(experiment, cut=Cut(0, 0)), cell).steady
    assert found.requests == 60
    assert found.input_tokens_per_s * window.span_s == pytest.approx(60 * 7_200)
    assert found.output_tokens_per_s * window.span_s == pytest.approx(60 * 1_000)


def test_a_sweep_covers_every_policy_level_fleet_and_seed_in_order(make: Make) -> None:
    experiment = make(rates=(2.0, 4.0), replicas=(1, 2), requests=20)
    runs = sweep(experiment)
    found = [
        (run.cell.replicas, run.cell.level.value, run.cell.contender, run.cell.seed) for run in runs
    ]
    assert found == [
        (replicas, rate, policy, seed)
        for replicas in (1, 2)
        for rate in (2.0, 4.0)
        for policy in ("round-robin", "llm-d-token-aware")
        for seed in (1, 2)
    ]
    assert [run.timeline is not None for run in runs[:2]] == [True, False]
    together = points(experiment, runs)
    assert len(together) == 8
    assert all(len(point.by_seed) == 2 for point in together)


def test_policies_differ_on_the_same_requests(make: Make) -> None:
    # Prompts that come again: sticky routing finds them where turns do not.
    experiment = make(rates=(6.0,), requests=800, duration_s=100.0)
    turns, sticky = points(experiment, sweep(experiment))
    assert turns.values("requests") == sticky.values("requests")
    gap = difference(sticky, turns, "hit_rate")
    assert gap is not None
    assert gap.value > 0.1
    assert not gap.includes_zero


def test_a_ramp_is_told_stage_by_stage_from_its_lowest_on(make: Make) -> None:
    experiment = make(requests=500, seeds=1)
    together = points(experiment, sweep(experiment))
    stages = experiment.source.stages
    mine = [point for point in together if point.contender == "round-robin"]
    assert [point.load for point in mine] == [stage.per_s for stage in stages[1:]]


def test_more_replicas_than_requests_and_a_client_that_gives_up(make: Make) -> None:
    experiment = make("reasoning", "round-robin", concurrencies=(2,), requests=4, replicas=(8,))
    impatient = replace(experiment, client_timeout_s=1.0)
    for run in sweep(impatient):
        assert run.whole.requests == 4
        assert run.whole.failed == 4
        assert run.whole.duration_s < 60


def test_a_recorded_trace_is_played_at_its_speed(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": at * 1000, "input_length": 700, "output_length": 20, "hash_ids": [1, at + 2]}
        for at in range(40)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    experiment = make(f"trace:{path}", "round-robin", speeds=(1, 4), requests=None, seeds=1)
    slow, fast = sweep(experiment)
    assert slow.whole.requests == fast.whole.requests == 40
    assert slow.whole.duration_s == pytest.approx(39, abs=2)
    assert fast.whole.duration_s == pytest.approx(39 / 4, abs=2)
    assert str(tmp_path) not in dumped(document(experiment, (slow, fast))).decode()


@pytest.mark.parametrize("workload", ["interactive-chat", "fixed-corpus-saas", "code-generation"])
def test_clients_of_a_closed_loop_stop_some_time(make: Make, workload: str) -> None:
    experiment = make(workload, "random", concurrencies=(2,), requests=None, seeds=1)
    cell = next(experiment.cells())
    traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
    now_s = 0.0
    while (due_s := traffic.next_s()) is not None:
        for request in traffic.take(now_s := max(now_s, due_s)):
            traffic.answered(request, now_s + 5.0)
    assert now_s < DEFAULT_DURATION_S
    assert traffic.sent >= 2 * 6


def test_a_client_of_a_recycling_loop_has_its_session_again_for_as_long_as_it_is_told(
    make: Make,
) -> None:
    experiment = make("code-generation", "random", concurrencies=(1,), duration_s=900.0)
    cell = next(experiment.cells())
    traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
    first = {request.prompt.segments[0].id for request in walk(traffic)}
    assert len(first) == 1


def _watched(make: Make, workload: str, timeout_s: float | None = None) -> list[Any]:
    """What the picker expects of the first request, and what it is told at its end."""
    experiment = make(workload, "random", speeds=(1,), requests=None, seeds=1)
    experiment = replace(experiment, client_timeout_s=timeout_s)
    cell = next(experiment.cells())
    traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
    simulation = Simulation(experiment.setting(cell), traffic, seed=1)
    told: list[Any] = []
    picker = simulation._picker
    complete, offer = picker.complete, picker.offer

    def hear_complete(report: Report) -> None:
        told.append(report)
        complete(report)

    async def hear_offer(context: RequestContext, body: bytes) -> Decision | Answer:
        outcome = await offer(context, body)
        told.append(context.output_tokens)
        return outcome

    picker.complete = hear_complete  # type: ignore[method-assign]
    picker.offer = hear_offer  # type: ignore[method-assign]
    simulation.run()
    return told[:2]


def _trace(tmp_path: Path, **row: object) -> str:
    path = tmp_path / "trace.jsonl"
    first = {"timestamp": 0, "hash_ids": [1, 2], **row}
    # A run ends with its last answer, before the picker is told of that.
    last = {"timestamp": 900_000, "hash_ids": [3], "input_length": 9, "output_length": 1}
    path.write_bytes(b"\n".join(map(orjson.dumps, (first, last))))
    return f"trace:{path}"


def test_a_picker_knows_no_more_of_a_recorded_answer_than_the_live_one(
    make: Make, tmp_path: Path
) -> None:
    expected, end = _watched(make, _trace(tmp_path, input_length=700, output_length=7_777))
    assert expected == PickerSettings(()).default_output_tokens
    assert (end.status, end.reason, end.output_tokens) == (200, "ok", 7_777)


@pytest.mark.parametrize(("timeout_s", "status"), [(0.001, 0), (1.0, 200)])
def test_a_client_that_leaves_brings_the_picker_no_usage(
    make: Make, tmp_path: Path, timeout_s: float, status: int
) -> None:
    trace = _trace(tmp_path, input_length=700, output_length=7_777)
    _, end = _watched(make, trace, timeout_s)
    assert (end.status, end.reason) == (status, "client_aborted")
    assert (end.input_tokens, end.output_tokens, end.cached_tokens) == (None, None, None)
    assert (end.ttft_s is None) == (end.streamed_events == 0) == (status == 0)


def test_a_prompt_that_is_too_long_is_an_error_not_a_client_that_left(
    make: Make, tmp_path: Path
) -> None:
    trace = _trace(tmp_path, input_length=512_000, output_length=7, hash_ids=list(range(1000)))
    _, end = _watched(make, trace)
    assert (end.status, end.reason, end.input_tokens) == (400, "http_error", None)


def test_workers_end_with_the_one_who_started_them(tmp_path: Path) -> None:
    script = tmp_path / "sweeps.py"
    script.write_text(
        "from loadtests.lab.command import app\n"
        "if __name__ == '__main__':\n"
        "    app(['sim', '--workload', 'fixed-corpus-saas', '--policies', 'random,weighted',"
        " '--profile', 'qwen3-32b-tp2-h100', '--rate', '60', '--duration', '3000', '--jobs', '2'])"
    )
    parent = psutil.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    workers: list[psutil.Process] = []
    try:
        until_s = time.monotonic() + 60
        while len(workers) < 2 and time.monotonic() < until_s:
            time.sleep(0.2)
            workers = [
                each
                for each in parent.children()
                if "spawn_main" in " ".join(each.cmdline()) and each.num_threads() > 1
            ]
        assert len(workers) == 2
    finally:
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(workers, timeout=10)
        for each in alive:
            each.kill()
    assert alive == []


def test_a_mistake_in_a_worker_is_told(make: Make) -> None:
    experiment = make(rates=(0.001,), duration_s=0.01, requests=None)
    with pytest.raises(ValueError, match="no request was sent"):
        sweep(experiment, jobs=2)
    with pytest.raises(LabError, match="--jobs"):
        sweep(experiment, jobs=0)
