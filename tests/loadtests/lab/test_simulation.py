"""A run follows from its arguments alone, not from the process, its hashes, or skipping."""

import os
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from loadtests.lab.setting import Setting
from loadtests.lab.simulation import Simulation
from loadtests.sim.model.profile import write_profile
from tests.loadtests.lab.conftest import PROFILE, Make

SWEEP = (
    *("sim", "--workload", "lora-mix", "--policies", "weighted,power-of-two,session-hash"),
    *("--replicas", "3", "--rate", "10", "--requests", "120", "--seeds", "2"),
)


def _result(folder: Path, hash_seed: int, jobs: int) -> bytes:
    """Of a process of its own. Adapters, sessions and models go through sets and dicts there."""
    out = folder / f"{hash_seed}-{jobs}"
    profile = folder / "profile.yaml"
    write_profile(PROFILE, profile)
    command = [sys.executable, "-c", "from loadtests.lab.command import app; app()", *SWEEP]
    subprocess.run(
        [*command, "--profile", str(profile), "--jobs", str(jobs), "--out", str(out)],
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        check=True,
        capture_output=True,
        timeout=240,
    )
    return (out / "result.json").read_bytes()


def test_other_processes_and_other_hashes_give_the_same_bytes(tmp_path: Path) -> None:
    first = _result(tmp_path, hash_seed=1, jobs=1)
    assert _result(tmp_path, hash_seed=2, jobs=1) == first
    assert _result(tmp_path, hash_seed=3, jobs=2) == first


@pytest.mark.parametrize(
    "workload", ["interactive-chat", "reasoning", "lora-mix", "code-generation"]
)
def test_skipping_equal_steps_changes_nothing(make: Make, workload: str) -> None:
    experiment = make(workload, "weighted", concurrencies=(12,), requests=60)
    source, level = experiment.source, experiment.levels[0]
    (choice,) = experiment.policies
    setting = Setting(experiment.profile, experiment.limits, 3, choice.spec)
    hurried, patient = (
        Simulation(setting, source.traffic(level, 1, experiment.extent), seed=1, skip=skip).run()
        for skip in (True, False)
    )
    assert [astuple(served) for served in hurried.served] == [
        astuple(served) for served in patient.served
    ]
    assert hurried.samples == patient.samples
    assert (hurried.steps, hurried.preemptions) == (patient.steps, patient.preemptions)
    assert hurried.busy_s == pytest.approx(patient.busy_s, rel=1e-9)


def test_a_picker_with_kv_events_knows_what_engines_have(make: Make) -> None:
    experiment = make("fixed-corpus-saas", "weighted", rates=(6,), requests=150)
    source, level = experiment.source, experiment.levels[0]
    (choice,) = experiment.policies
    wrong: dict[bool, float] = {}
    for kv_events in (False, True):
        setting = Setting(
            experiment.profile, experiment.limits, 3, choice.spec, kv_events=kv_events
        )
        traffic = source.traffic(level, 1, experiment.extent)
        served = Simulation(setting, traffic, seed=1).run().served
        known = [(one.expected_cached_tokens or 0, one.cached_tokens or 0) for one in served]
        wrong[kv_events] = sum(abs(expected - cached) for expected, cached in known)
        assert sum(cached for _, cached in known) > 10_000
    assert wrong[True] < wrong[False] / 2
