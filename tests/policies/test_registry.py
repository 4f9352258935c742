"""The registry of policies: building by name, validation, plugins."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

import policies.routing  # noqa: F401 - registers the built-in ones
from policies import registry
from policies.registry import PolicyError
from policies.routing.filters import MaxWaiting


@pytest.fixture(autouse=True)
def _own_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))


def test_built_in_policies_are_registered_on_import() -> None:
    assert registry.names("scorer") == [
        "in-flight-tokens",
        "kv",
        "lora",
        "prefix",
        "queue",
        "running",
        "session",
    ]
    assert registry.names("filter") == ["adapter-served", "max-kv-usage", "max-waiting"]
    assert registry.names("picker") == ["max", "weighted-random"]
    assert registry.names("policy") == [
        "aibrix-prefix-cache",
        "auto",
        "cache-aware",
        "cache-aware-library",
        "dynamo",
        "least-requests",
        "llm-d-legacy",
        "llm-d-token-aware",
        "power-of-two",
        "production-stack",
        "random",
        "round-robin",
        "session-hash",
        "weighted",
    ]


def test_build_passes_parameters_and_takes_whole_numbers_for_floats() -> None:
    assert registry.build("filter", "max-waiting", {"limit": 5}) == MaxWaiting(limit=5.0)


@pytest.mark.parametrize(
    ("kind", "name", "params", "message"),
    [
        ("scorer", "queu", {}, "unknown scorer 'queu': use one of in-flight-tokens, kv"),
        ("scorer", "queue", {"depth": 1}, "scorer 'queue': unknown parameter 'depth'; it takes no"),
        ("filter", "max-waiting", {}, "filter 'max-waiting': parameter 'limit' is missing"),
        ("filter", "max-waiting", {"limit": "5"}, "'limit' must be a finite number, got '5'"),
        ("filter", "max-waiting", {"limit": True}, "'limit' must be a finite number, got True"),
        ("filter", "max-waiting", {"limit": float("nan")}, "'limit' must be a finite number"),
        ("filter", "max-waiting", {"limit": -1}, "filter 'max-waiting': limit must be 0 or more"),
        ("filter", "max-waiting", {"limit": 1, "strict": 1}, "'strict' must be true or false"),
        ("filter", "max-kv-usage", {"limit": 80}, "limit must be a share from 0 to 1, got 80"),
        ("picker", "weighted-random", {"exponent": 0}, "exponent must be more than 0"),
        ("policy", "weighted", {}, "parameter 'scorers' is missing"),
        ("policy", "weighted", {"scorers": "queue"}, "scorers must be a list"),
        ("policy", "weighted", {"scorers": ["queue"]}, "must be an object with a name"),
        ("policy", "weighted", {"scorers": [{"name": "nope"}]}, "unknown scorer 'nope'"),
        ("policy", "weighted", {"scorers": [{"name": "kv", "w": 1}]}, "unknown key 'w'"),
        ("policy", "weighted", {"scorers": [{"name": "kv", "weight": -1}]}, "weight must be"),
        ("policy", "weighted", {"scorers": [], "picker": {"name": "min"}}, "unknown picker 'min'"),
        (
            "policy",
            "weighted",
            {"scorers": [{"name": "in-flight-tokens", "params": {"kv_share": -1}}]},
            "'in-flight-tokens': kv_share must be 0 or more",
        ),
    ],
)
def test_errors_name_kind_name_parameter_and_what_is_right(
    kind: registry.PartKind, name: str, params: dict[str, object], message: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        registry.build(kind, name, params)
    assert message in str(caught.value)


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(PolicyError, match="'queue' is already registered by policies"):

        @registry.register("scorer", "queue")
        class Other:
            pass


def test_a_scorer_without_score_is_refused_when_a_profile_uses_it() -> None:
    @registry.register("scorer", "broken")
    @dataclass
    class Broken:
        pass

    with pytest.raises(PolicyError, match=r"'broken' has no score\(\)"):
        registry.build("policy", "weighted", {"scorers": [{"name": "broken"}]})


def test_plugins_register_by_module_or_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("acme_policies")

    def setup() -> None:
        registry.register("scorer", "acme")(MaxWaiting)

    vars(module)["setup"] = setup
    monkeypatch.setitem(sys.modules, "acme_policies", module)
    points = [
        EntryPoint("acme-module", "acme_policies", registry.ENTRY_POINT_GROUP),
        EntryPoint("acme-call", "acme_policies:setup", registry.ENTRY_POINT_GROUP),
    ]
    assert registry.load_plugins(points) == ["acme-module", "acme-call"]
    assert "acme" in registry.names("scorer")
    assert registry.about("scorer", "acme").startswith("Leaves out endpoints with more than limit")


def test_a_policy_tells_what_it_does_in_a_line() -> None:
    for kind in registry.KINDS:
        for name in registry.names(kind):
            assert "\n" not in registry.about(kind, name)
    assert all(registry.about("policy", name) for name in registry.names("policy"))

    @registry.register("scorer", "undescribed")
    @dataclass
    class Undescribed:
        weight: float = 1.0

    assert registry.about("scorer", "undescribed") == ""


def test_a_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("acme_policies")
    vars(module)["answer"] = 42
    monkeypatch.setitem(sys.modules, "acme_policies", module)
    missing = EntryPoint("acme", "acme_missing", registry.ENTRY_POINT_GROUP)
    with pytest.raises(PolicyError, match=r"'acme' \(acme_missing\) cannot be loaded: ModuleNot"):
        registry.load_plugins([missing])
    number = EntryPoint("acme", "acme_policies:answer", registry.ENTRY_POINT_GROUP)
    with pytest.raises(PolicyError, match="must name a module or a callable, not 42"):
        registry.load_plugins([number])
