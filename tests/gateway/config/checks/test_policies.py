"""Policies that do not exist, or do not take these parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_says, only, written


@pytest.mark.parametrize(
    ("text", "position", "key", "got", "expected", "hint"),
    [
        pytest.param(
            "scheduling: {profiles: {p: {scorers: [{name: queu}]}}}\n",
            (1, 46),
            "scheduling.profiles.p.scorers[0].name",
            '"queu"',
            "a scorer: one of",
            "did you mean queue?",
            id="unknown scorer",
        ),
        pytest.param(
            "scheduling:\n  profiles:\n    p: {filters: [{name: max-waiting, params: {x: 1}}],\n"
            "        scorers: [{name: kv}]}\n",
            (3, 47),
            "scheduling.profiles.p.filters[0].params",
            "a mapping with the keys x",
            "unknown parameter 'x'",
            None,
            id="unknown parameter",
        ),
    ],
)
def test_a_problem_has_its_position_and_says_what_is_right(
    tmp_path: Path,
    text: str,
    position: tuple[int, int],
    key: str,
    got: str,
    expected: str,
    hint: str | None,
) -> None:
    problem = only(written(tmp_path, text))
    assert_says(problem, position, key, got, expected, hint)
