from pathlib import Path

import pytest

from loadtests.sim.model.catalogue import H100, UnknownArchitectureError, architecture
from loadtests.sim.model.profile import (
    Profile,
    ProfileError,
    built_in,
    built_in_names,
    read_profile,
    write_profile,
)
from loadtests.sim.model.step_time import StepTime, Work


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    profile = Profile("mine", architecture("Qwen/Qwen3-8B"), H100, 1, overhead_s=0.0031)
    write_profile(profile, tmp_path / "mine.yaml")
    assert read_profile(tmp_path / "mine.yaml") == profile


def test_a_file_may_name_what_the_catalogue_has(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("name: short\nmodel: qwen/qwen3-8b\naccelerator: h100\n")
    assert read_profile(path).model.layers == 36


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "name: a\nmodel: qwen/qwen3-8b\naccelerator: h100\ncompute_share: 0",
            "compute_share is 0",
        ),
        ("name: a\nmodel: qwen/qwen3-8b\naccelerator: h100\noverhead_s: -1", "overhead_s is -1"),
        ("name: a\nmodel: qwen/qwen3-8b\naccelerator: h100\nremap_s: .nan", "remap_s is nan"),
        ("- 1", "a mapping is wanted, not list"),
        ("name: x\nmodel: Qwen3-8B\naccelerator: h99", "'h99' is not known; known are h100"),
        ("name: x\nmodel: Qwen3-8B\naccelerator: h100\noverhead: 1", "overhead: Unexpected"),
        ("name: x\nmodel: Qwen3-8B\naccelerator: h100\noverhead_s: fast", "overhead_s: Input"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=complaint) as caught:
        read_profile(path)
    assert str(path) in str(caught.value)


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(UnknownArchitectureError, match="Llama-2-7b-hf"):
        architecture("nobody/nothing-1b")


def test_kv_blocks_are_what_the_weights_leave() -> None:
    blocks = Profile("7b", architecture("Llama-2-7b-hf"), H100).kv_blocks()
    assert 115_000 < blocks * 16 < 122_000
    with pytest.raises(ProfileError, match="raise tensor_parallel"):
        Profile("70b", architecture("Llama-2-70b-hf"), H100).kv_blocks()


@pytest.mark.parametrize("name", built_in_names())
def test_built_in_profiles_say_where_they_come_from(name: str) -> None:
    profile = built_in(name)
    assert profile.name == name
    assert len(profile.source) > 20
    assert profile.kv_blocks() > 0


def test_the_published_prefill_time_of_qwen3_32b_is_met() -> None:
    time = StepTime(built_in("qwen3-32b-tp2-h100"))
    work = Work(8192, 8192 * 4096.0, prefill_context_tokens=8192)
    assert time.step_s(work) == pytest.approx(0.40, rel=0.01)
