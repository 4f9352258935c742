"""What the command line gives in words."""

import pytest

from loadtests.lab.choices import numbers, policies, sizes
from loadtests.lab.source import LabError, Level, LevelKind, Source
from loadtests.sim.model.profile import ProfileError, find
from policies.registry import PolicyError
from policies.routing.weighted import DEFAULT_PROFILE


def test_policies_may_have_parameters_with_commas_in_them() -> None:
    found = policies('round-robin, llm-d-token-aware:{"affinity":0.5,"load":"requests"} ,weighted')
    assert [choice.spec.name for choice in found] == [
        "round-robin",
        "llm-d-token-aware",
        "weighted",
    ]
    assert found[1].spec.params == {"affinity": 0.5, "load": "requests"}
    assert found[1].title == 'llm-d-token-aware {"affinity":0.5,"load":"requests"}'
    assert found[2].spec.params == DEFAULT_PROFILE
    assert found[2].title == "weighted"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("round-robin,", "missing after the last comma"),
        (",round-robin", "a policy has a name"),
        ("dynamo:{", "parameters are not JSON"),
        ("dynamo:[1]", "a JSON object, not"),
        ("dynamo:{}round-robin", "a comma is missing"),
        ("random,random", "given twice"),
    ],
)
def test_mistakes_in_policies_are_told(text: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        policies(text)


def test_policies_are_checked_before_anything_runs() -> None:
    with pytest.raises(PolicyError, match="use one of"):
        policies("best-of-all")
    with pytest.raises(PolicyError, match="affinity must be a share"):
        policies('llm-d-token-aware:{"affinity":2}')


def test_loads_are_numbers_and_steps() -> None:
    assert numbers("5,10.5", "--rate") == (5.0, 10.5)
    assert numbers("5:20:5,40", "--rate") == (5.0, 10.0, 15.0, 20.0, 40.0)
    assert numbers("0.1:0.3:0.1", "--rate") == pytest.approx((0.1, 0.2, 0.3))
    assert sizes("8,2,8", "--replicas") == (2, 8)


@pytest.mark.parametrize("text", ["", "a", "1:2", "5:1:1", "1:5:0", "1:2:3:4", "inf", "1:1e9:1"])
def test_mistakes_in_loads_are_told(text: str) -> None:
    with pytest.raises(LabError, match="--rate"):
        numbers(text, "--rate")


@pytest.mark.parametrize("text", ["0", "2.5", "-1"])
def test_fleets_are_of_whole_replicas(text: str) -> None:
    with pytest.raises(LabError, match="whole numbers from 1"):
        sizes(text, "--replicas")


def test_profiles_are_names_or_files() -> None:
    with pytest.raises(ProfileError, match="not among the built-in ones"):
        find("no-such")
    with pytest.raises(ProfileError, match=r"no-such\.yaml"):
        find("no-such.yaml")


def test_a_workload_has_a_load_of_its_own() -> None:
    assert Source.parse("reasoning").levels() == (Level(200.0, LevelKind.CONCURRENCY),)
    assert Source.parse("lora-mix").levels() == (Level(40.0, LevelKind.RATE),)
    assert Source.parse("fixed-corpus-saas").levels() == (Level(60.0, LevelKind.RAMP),)


def test_loads_rise_and_come_once() -> None:
    found = Source.parse("reasoning").levels(rates=(3.0, 1.0, 3.0))
    assert [level.value for level in found] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ({"rates": (1.0,), "concurrencies": (1.0,)}, "exclude each other"),
        ({"rates": (0.0,)}, "more than 0"),
        ({"concurrencies": (1.5,)}, "whole number"),
        ({"speeds": (1.0,)}, "--speed is of a trace"),
    ],
)
def test_mistakes_in_levels_are_told(levels: dict[str, tuple[float, ...]], says: str) -> None:
    with pytest.raises(LabError, match=says):
        Source.parse("reasoning").levels(**levels)
