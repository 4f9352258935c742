"""Checks between the sections of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.reading.problems import ConfigError
from tests.gateway.config.texts import loaded

POOL = "{{name: {name}, type: simulated, model: {name}-model{more}}}"


def pool(name: str, more: str = "") -> str:
    return "  - " + POOL.format(name=name, more=f", {more}" if more else "")


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (f"pools:\n{pool('a')}\n{pool('a')}", "pools[1].name", "pools[0] has it already"),
        (
            f"pools:\n{pool('a', 'default: true')}\n{pool('b', 'default: true')}",
            "pools[1].default",
            "pools[0] (a) is it already",
        ),
        (f"pools:\n{pool('a', 'profile: weightd')}", "pools[0].profile", "did you mean weighted?"),
        (f"pools:\n{pool('a', 'shadow: aut')}", "pools[0].shadow", "did you mean auto?"),
        (
            f"scheduling: {{default_profile: auto}}\npools:\n{pool('a', 'shadow: auto')}",
            "pools[0].shadow",
            "auto is in force for the pool",
        ),
        ("scheduling: {default_profile: x}", "scheduling.default_profile", "one of auto, weighted"),
        (
            "models: [{name: a, targets: [{model: x}]}, {name: a, targets: [{model: y}]}]",
            "models[1].name",
            "models[0] has it already",
        ),
        (
            "models: [{name: a, targets: [{model: b}]}, {name: b, targets: [{model: a}]}]",
            "models[0].targets[0].model",
            "rules are not followed twice",
        ),
        (
            "models: [{name: a, targets: [{model: x, weight: 0}]}]",
            "models[0].targets",
            "a weight above 0",
        ),
        ("models: [{name: a, targets: [{model: '*'}]}]", "models[0].targets[0].model", "a model"),
        (
            f"models: [{{name: a, targets: [{{model: x, pool: chta}}]}}]\npools:\n{pool('chat')}",
            "models[0].targets[0].pool",
            "did you mean chat?",
        ),
        (
            "picker: {scrape: {stale_after_s: 1}}",
            "picker.scrape.stale_after_s",
            "more than the time between two reads",
        ),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, text: str, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    found = {problem.key: str(problem) for problem in refused.value.problems}
    assert says in found[key]
    assert all(problem.line > 0 for problem in refused.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        # a canary on a name that replicas serve themselves
        "models: [{name: q, targets: [{model: q, weight: 9}, {model: q2}]}]",
        # a generic rule beside others
        "models: [{name: '*', targets: [{model: q}]}, {name: a, targets: [{model: q}]}]",
    ],
)
def test_what_does_fit_together(tmp_path: Path, text: str) -> None:
    loaded(tmp_path, text)
