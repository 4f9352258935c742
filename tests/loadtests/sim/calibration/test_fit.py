"""Fitting and predicting, on measurements made by the engine model itself."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from loadtests.sim.calibration import fit, predictions
from loadtests.sim.calibration.calibrate import fit_profile, prior_profile, profile_name
from loadtests.sim.calibration.inference_perf import (
    StageResult,
    distinct_prompts,
    halves_token_times,
    replay,
)
from loadtests.sim.calibration.measured import MeasuredError, MeasuredExperiment, read_measured
from loadtests.sim.model import catalogue
from loadtests.sim.model.catalogue import H100


def experiment(name: str = "toy-codegen", **changes: Any) -> dict[str, Any]:
    return {
        "experiment": name,
        "config": {"model": "meta-llama/Llama-2-7b-hf", "app": "inference-perf"},
        "workload": {
            "type": "shared_prefix",
            "shared_prefix": {
                "system_prompt_len": 100,
                "question_len": 400,
                "output_len": changes.get("output_len", 40),
            },
        },
        "load": {
            "type": "constant",
            "stages": changes.get("load", [{"rate": 5, "duration": 40}]),
        },
        "stages": changes.get("stages", []),
    }


TRUTH = prior_profile(MeasuredExperiment.model_validate(experiment()), H100)


def distribution(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"median": 0.5, "p90": 0.9, "p99": 0.99}
    found = {key: ordered[int(share * (len(ordered) - 1))] for key, share in at.items()}
    return found | {"mean": sum(values) / len(values)}


def report(result: StageResult) -> dict[str, Any]:
    return {
        "count": result.completed,
        "failures": result.failures,
        "time_per_output_token": distribution(result.output_token_s),
        "request_latency": distribution(result.latency_s),
        "time_to_first_token": distribution(result.first_token_s),
        "throughput": {"output_tokens_per_sec": result.output_tokens_per_s},
        "output_len": {"mean": result.output_tokens / result.completed},
    }


def parsed(**changes: Any) -> MeasuredExperiment:
    return MeasuredExperiment.model_validate(experiment(**changes))


def test_the_same_seed_gives_the_same_bytes() -> None:
    toy = parsed()
    profile = prior_profile(toy, H100)
    first, second, other = (replay(toy, profile, seed=seed) for seed in (1, 1, 2))
    assert repr(first) == repr(second)
    assert repr(first) != repr(other)


def test_prompts_that_come_round_are_cached() -> None:
    toy = parsed(load=[{"rate": 10, "duration": 100}])
    result = replay(toy, prior_profile(toy, H100))[0]
    assert result.completed == 1000
    # All but the first of ten rounds, and the groups' system prompts in that one.
    assert result.cached_tokens / result.prompt_tokens == pytest.approx(0.9, abs=0.05)


def test_an_overloaded_server_fails_what_takes_too_long() -> None:
    raw = experiment(load=[{"rate": 60, "duration": 60}], output_len=500)
    raw["load"]["request_timeout"] = 30.0
    raw["config"]["max_num_seqs"] = 32
    toy = MeasuredExperiment.model_validate(raw)
    result = replay(toy, prior_profile(toy, H100))[0]
    assert result.failures > 1000
    assert result.completed + result.failures == 3600
    assert max(result.latency_s) <= 30.1


def test_what_does_not_fit_the_model_fails_at_once() -> None:
    raw = experiment(load=[{"rate": 1, "duration": 10}], output_len=4000)
    toy = MeasuredExperiment.model_validate(raw)
    result = replay(toy, prior_profile(toy, H100))[0]
    assert (result.completed, result.failures) == (0, 10)


@pytest.mark.parametrize(("mean", "prompts"), [(591.63, 100), (512.25, 8), (512.2501, 100)])
def test_the_number_of_prompts_is_read_from_their_mean_length(mean: float, prompts: int) -> None:
    raw = experiment(stages=[{"count": 200, "prompt_len": {"mean": mean}}])
    raw["workload"]["shared_prefix"] |= {
        "num_unique_system_prompts": 4,
        "num_users_per_system_prompt": 2,
    }
    assert distinct_prompts(MeasuredExperiment.model_validate(raw)) == prompts


def test_a_fit_finds_the_server_it_was_measured_on() -> None:
    load = [{"rate": 5, "duration": 60}, {"rate": 20, "duration": 60}]
    toy = parsed(load=load)
    truth = replace(
        prior_profile(toy, H100), overhead_s=4e-3, input_s=6e-3, compute_share=0.4, first_use_s=0.05
    )
    measured = parsed(load=load, stages=[report(r) for r in replay(toy, truth, seed=5)])
    found = fit_profile(measured, H100, rounds=4)
    assert found.profile.overhead_s == pytest.approx(truth.overhead_s, rel=0.1)
    assert found.profile.input_s == pytest.approx(truth.input_s, rel=0.25)
    other = parsed(load=[{"rate": 12, "duration": 60}], output_len=80)
    ours, theirs = (
        distribution(replay(other, profile)[0].latency_s)["mean"]
        for profile in (found.profile, truth)
    )
    assert ours == pytest.approx(theirs, rel=0.02)


def test_the_command_prints_a_table_and_verdicts(tmp_path: Path) -> None:
    toy = parsed()
    stages = [report(r) for r in replay(toy, prior_profile(toy, H100))]
    held_out = experiment("toy-general", load=[{"rate": 8, "duration": 30}])
    held_out["stages"] = [
        report(r)
        for r in replay(MeasuredExperiment.model_validate(held_out), prior_profile(toy, H100))
    ]
    path = tmp_path / "measured.json"
    path.write_text(json.dumps([experiment(stages=stages), held_out]))
    app = typer.Typer()
    app.command()(fit.main)
    done = CliRunner().invoke(
        app,
        [str(path), "--no-refit", "--seeds", "1", "--json", str(tmp_path / "out.json")],
        env={"COLUMNS": "160"},
    )
    assert done.exit_code == 0, done.output
    assert "toy-general" in done.output
    assert "held out: request_latency: median error" in done.output
    rows = json.loads((tmp_path / "out.json").read_text())
    assert {row["metric"] for row in rows} == set(predictions.METRICS)
    assert all(abs(row["error"]) < inf for row in rows if row["error"] is not None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasuredError, match=r"nothing\.json: No such file"):
        read_measured(tmp_path / "nothing.json")


def test_a_wrong_file_says_where(tmp_path: Path) -> None:
    raw = experiment()
    del raw["config"]["model"]
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps([raw]))
    with pytest.raises(MeasuredError, match=r"0\.config\.model: Field required"):
        read_measured(path)


def command(*words: str) -> Any:
    app = typer.Typer()
    app.command()(fit.main)
    return CliRunner().invoke(app, [*words, "--seeds", "1"], env={"COLUMNS": "160"})


def saved(path: Path, *experiments: dict[str, Any]) -> str:
    path.write_text(json.dumps(experiments))
    return str(path)


def test_one_server_on_two_accelerators_is_two_servers() -> None:
    here, there = parsed(), parsed(name="elsewhere")
    there = there.model_copy(
        update={"config": there.config.model_copy(update={"accelerator": "A100-80GB"})}
    )
    fitted = {
        profile_name(here, H100): fit.Calibration(replace(prior_profile(here, H100), name="mine"))
    }
    assert fit.profile_for(here, fitted, H100).profile.name == "mine"
    assert fit.profile_for(there, fitted, H100).profile.accelerator.name == "a100-80gb"


def test_times_per_token_are_compared_as_the_report_counts_them() -> None:
    toy = parsed()
    tokens = toy.prompts.output_len
    stage = {"request_latency": {"mean": 1.0}, "time_to_first_token": {"mean": 0.2}}
    halved, plain = (
        parsed(stages=[stage | {"time_per_output_token": {"mean": 0.8 / tokens / parts}}])
        for parts in (2, 1)
    )
    assert halves_token_times(halved)
    assert not halves_token_times(plain)
    profile = prior_profile(toy, H100)
    halves, wholes = (replay(each, profile)[0] for each in (halved, plain))
    assert halves.latency_s == wholes.latency_s
    ratio = sum(wholes.output_token_s) / sum(halves.output_token_s)
    assert ratio == pytest.approx((2 * tokens + 1) / (tokens - 1))


def test_what_is_predicted_is_not_trained_on(tmp_path: Path) -> None:
    truth = replace(prior_profile(parsed(), H100), overhead_s=5e-3)
    load = [{"rate": 8, "duration": 20}]
    held_out = experiment("toy2-codegen", load=load)
    held_out["stages"] = [report(r) for r in replay(parsed(load=load), truth)]
    unmeasured = saved(tmp_path / "one.json", experiment("toy-general", load=load))
    other = saved(tmp_path / "other.json", held_out)
    out = tmp_path / "rows.json"
    done = command(unmeasured, "--predict", other, "--json", str(out), "--save", str(tmp_path))
    assert done.exit_code == 0, done.output
    rows = [row for row in json.loads(out.read_text()) if row["experiment"] == "toy2-codegen"]
    assert rows
    assert not any(row["calibrated_on"] for row in rows)
    assert list(tmp_path.glob("*.yaml")) == []


def test_a_built_in_profile_is_not_held_out_from_what_it_was_fitted_to(tmp_path: Path) -> None:
    toy = experiment("llama-2-7b-tp1-codegen", load=[{"rate": 8, "duration": 10}])
    toy["stages"] = [report(r) for r in replay(MeasuredExperiment.model_validate(toy), TRUTH)]
    done = command(saved(tmp_path / "one.json", toy), "--no-refit")
    assert done.exit_code == 0, done.output
    assert "(fitted)" in done.output
    assert "held out" not in done.output


def test_the_answers_to_predict_do_not_tell_how_they_are_counted(tmp_path: Path) -> None:
    rates: list[float] = []
    for counted in (20.0, 40.0):
        toy = experiment("toy-general", load=[{"rate": 8, "duration": 10}])
        toy["stages"] = [report(r) for r in replay(MeasuredExperiment.model_validate(toy), TRUTH)]
        toy["stages"][0]["output_len"] = {"mean": counted}
        out = tmp_path / "out.json"
        done = command(saved(tmp_path / "one.json", toy), "--no-refit", "--json", str(out))
        assert done.exit_code == 0, done.output
        rows = json.loads(out.read_text())
        rates += [row["predicted"] for row in rows if row["metric"] == "output_tokens_per_sec"]
    assert rates[0] == rates[1]


def test_verdicts_are_medians_over_servers_and_name_failures() -> None:
    def row(server: str, metric: str, predicted: float, measured: float) -> predictions.Prediction:
        return predictions.Prediction(
            server, 0, 1.0, metric, predicted, measured, server, False, False
        )

    # Many stages of one server do not outvote the others.
    rows = [row("a", "request_latency", 1.01, 1.0)] * 5
    rows += [row("b", "request_latency", 1.3, 1.0), row("c", "request_latency", 0.8, 1.0)]
    [found] = predictions.verdicts(rows)
    assert found.error == pytest.approx(0.2)
    assert not found.met
    failures = [row("a", "failures", 3.0, 0.0), row("b", "failures", 2.0, 9.0)]
    assert predictions.misjudged(failures) == ([failures[0]], 2)


def test_a_result_that_cannot_be_written_is_said_before_anything_is_fitted(
    tmp_path: Path,
) -> None:
    done = command(saved(tmp_path / "one.json", experiment()), "--json", str(tmp_path / "no" / "o"))
    assert done.exit_code == 2
    assert "No such file or directory" in done.output
    assert "fitting" not in done.output


def test_a_file_without_experiments_is_said(tmp_path: Path) -> None:
    done = command(saved(tmp_path / "none.json"))
    assert done.exit_code == 2
    assert "no experiment in it" in done.output


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "nobody/nothing-1b"}, "--model NAME --config FILE"),
        ({"accelerator": "abacus"}, "toy-codegen: accelerator 'abacus' is not known"),
        ({"num_gpu_blocks": 10}, "toy-codegen: config: a sequence of max_model_len 4096"),
    ],
)
def test_an_experiment_that_cannot_be_replayed_says_why(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    raw = experiment(load=[{"rate": 5, "duration": 5}])
    raw["config"] |= changes
    done = command(saved(tmp_path / "odd.json", raw), "--no-refit")
    assert done.exit_code == 2
    assert says in done.output


def test_a_model_the_catalogue_has_not_comes_with_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "ARCHITECTURES", dict(catalogue.ARCHITECTURES))
    raw = experiment("new-general", load=[{"rate": 5, "duration": 5}, {"rate": 0.1, "duration": 5}])
    raw["config"]["model"] = "somebody/brand-new"
    (tmp_path / "config.json").write_text(
        '{"num_hidden_layers": 20, "hidden_size": 2048, "num_attention_heads": 16, '
        '"intermediate_size": 8192, "vocab_size": 50000}'
    )
    given = ("--config", str(tmp_path), "--model", "somebody/brand-new")
    done = command(saved(tmp_path / "new.json", raw), *given)
    assert done.exit_code == 0, done.output
    assert "new-general" in done.output
