"""Probing: a profile is found again from the times that a server of it gives."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.sim.calibration.hf_config import ModelConfigError, read_architecture
from loadtests.sim.calibration.probe import Facts, PointKind, ProbeError, ProbePoint, probe
from loadtests.sim.calibration.probe_check import check
from loadtests.sim.calibration.probe_engine import EngineTarget
from loadtests.sim.calibration.probe_fit import ProbeFit, fit_points, predict_points
from loadtests.sim.model.catalogue import H100, architecture
from loadtests.sim.model.profile import Profile, built_in, read_profile, write_profile
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.model.step_time import StepTime, Work


def probed(
    truth: Profile, *, known: bool = True, seconds: float = 60.0, budget: int = 8192, **sizes: int
) -> tuple[ProbeFit, EngineTarget, Facts]:
    limits = replace(
        EngineLimits(20_000, max_model_len=40_000, max_num_batched_tokens=budget),
        **sizes,  # type: ignore[arg-type]
    )
    target = EngineTarget(truth, limits)
    facts = asyncio.run(target.facts())
    points = asyncio.run(probe(target, facts, seconds=seconds))
    fit = fit_points(
        points,
        facts,
        truth.model,
        H100 if known else None,
        tensor_parallel=truth.tensor_parallel,
        max_num_batched_tokens=budget,
    )
    return fit, target, facts


def steps(profile: Profile) -> list[float]:
    time = StepTime(profile)
    decodes = [time.decode_s(n, n * context) for n in (1, 8, 48, 200) for context in (100, 5_000)]
    prefills = [
        time.step_s(Work(tokens, tokens * (before + tokens / 2), 8, 4_000, before + tokens))
        for tokens, before in ((200, 0), (2_000, 0), (8_000, 0), (8_000, 24_000))
    ]
    return decodes + prefills


TRUTHS = {
    "another overhead": replace(
        built_in("qwen3-8b-tp1-h100"), overhead_s=0.0041, input_s=0.009, attention_share=0.4
    ),
    "two accelerators": replace(
        built_in("qwen3-32b-tp2-h100"), compute_share=0.6, sequence_s=1.5e-5
    ),
    "experts": built_in("mixtral-8x7b-v0.1-tp2-h100"),
}


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=list(TRUTHS))
def test_step_times_of_a_known_accelerator_are_found_again(truth: Profile) -> None:
    fit, _, _ = probed(truth)
    for found, wanted in zip(steps(fit.profile), steps(truth), strict=True):
        assert found == pytest.approx(wanted, rel=0.05)
    assert fit.median_error < 0.01


def test_step_times_of_unknown_hardware_are_found_again() -> None:
    chip = replace(H100, memory_bandwidth_bytes_per_s=4e11, peak_flops=3e13)
    truth = Profile(
        "slow", architecture("Qwen/Qwen3-8B"), chip, overhead_s=0.004, compute_share=0.8
    )
    fit, _, _ = probed(truth, known=False, seconds=600)
    for found, wanted in zip(steps(fit.profile), steps(truth), strict=True):
        assert found == pytest.approx(wanted, rel=0.06)


def test_a_server_of_nothing_but_overhead_is_found_again() -> None:
    truth = replace(built_in("constant-step"), overhead_s=0.003, input_s=0.002)
    fit, _, _ = probed(truth, known=False, budget=2048)
    assert fit.worst_error < 0.05
    assert fit.profile.overhead_s < 0.003
    for found, wanted in zip(steps(fit.profile)[:3], steps(truth)[:3], strict=True):
        assert found == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("known", [True, False])
def test_a_probed_profile_holds_as_many_blocks_as_the_server(known: bool, tmp_path: Path) -> None:
    truth = built_in("qwen3-8b-tp1-h100")
    fit, _, facts = probed(truth, known=known, num_blocks=11_111)
    write_profile(fit.profile, tmp_path / "probed.yaml")
    again = read_profile(tmp_path / "probed.yaml")
    assert again == fit.profile
    assert again.kv_blocks(16) == facts.num_blocks == 11_111
    assert "probe of a live server" in again.source


def test_a_probe_is_bounded_in_time_and_requests() -> None:
    slow = replace(built_in("qwen3-8b-tp1-h100"), compute_share=0.01, attention_share=0.01)
    _, target, _ = probed(slow, seconds=20.0)
    assert target.now_s() < 40.0
    assert len(target.asked) < 700


def test_a_small_server_is_asked_for_no_more_than_it_holds() -> None:
    fit, target, facts = probed(
        built_in("qwen3-8b-tp1-h100"), num_blocks=128, max_model_len=1024, max_num_seqs=8
    )
    assert all(
        each.prompt_tokens + each.output_tokens <= facts.max_model_len for each in target.asked
    )
    decodes = [each.point for each in fit.residuals if each.point.kind is PointKind.DECODE]
    assert max(point.sequences for point in decodes) == 8  # more of them do not run at a time


def test_points_are_predicted_as_the_engine_does_them() -> None:
    profile = replace(built_in("qwen3-8b-tp1-h100"), input_s=0.005, output_s=0.001)
    target = EngineTarget(
        profile, EngineLimits(20_000, max_model_len=40_000, max_num_batched_tokens=2048)
    )
    facts = asyncio.run(target.facts())
    points = asyncio.run(probe(target, facts))
    assert {point.kind for point in points} == set(PointKind)
    for point, predicted in zip(points, predict_points(points, profile, 2048), strict=True):
        assert predicted == pytest.approx(point.value_s, rel=0.005), point.label


def test_a_right_profile_is_checked_and_found_right() -> None:
    truth = built_in("qwen3-8b-tp1-h100")
    limits = EngineLimits(20_000, max_model_len=40_000)
    facts = asyncio.run(EngineTarget(truth, limits).facts())
    wrong = replace(truth, overhead_s=0.01)
    for profile, off in ((truth, 0.0), (wrong, 0.5)):
        found = asyncio.run(
            check(EngineTarget(truth, limits), profile, facts, limits, seconds=1000)
        )
        assert [each.what for each in found] == ["mean TTFT", "mean TPOT", "mean latency"]
        assert all(abs(each.error) < 1e-9 if not off else each.error > 0.2 for each in found)


def test_too_few_points_are_no_profile() -> None:
    facts = Facts("m", "m", 4096, 1000, 16)
    point = ProbePoint(PointKind.PREFILL, 0.01, 0.01, 64)
    with pytest.raises(ProbeError, match="fewer than two prefill points"):
        fit_points([point], facts, architecture("Qwen/Qwen3-8B"), H100)


LLAMA_7B = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "torch_dtype": "float16",
}
MIXTRAL = LLAMA_7B | {
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


@pytest.mark.parametrize(
    ("config", "name"),
    [(LLAMA_7B, "meta-llama/Llama-2-7b-hf"), (MIXTRAL, "mistralai/Mixtral-8x7B-v0.1")],
)
def test_a_config_says_what_the_catalogue_does(
    tmp_path: Path, config: dict[str, object], name: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, known = read_architecture(tmp_path, name), architecture(name)
    assert found.parameters == pytest.approx(known.parameters, rel=1e-3)
    assert found.active_parameters == pytest.approx(known.active_parameters, rel=1e-2)
    assert found.kv_bytes_per_token == known.kv_bytes_per_token
    assert found.expert_share == pytest.approx(known.expert_share, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "not JSON"), ("[]", "an object is wanted"), ("{}", "num_hidden_layers: a number")],
)
def test_a_wrong_config_says_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelConfigError, match=complaint):
        read_architecture(tmp_path)
