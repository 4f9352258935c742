"""YAML of our kind only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_says, only, written


@pytest.mark.parametrize(
    ("text", "position", "key", "got", "expected", "hint"),
    [
        pytest.param(
            "listen: {port: 80}\nadmin: {port: 1}\nlisten: {port: 81}\n",
            (3, 1),
            "listen",
            "the key a second time (first in line 1)",
            "it once",
            None,
            id="duplicate key",
        ),
        pytest.param(
            "listen:\n\tport: 80\n",
            (2, 1),
            "",
            "cannot start any token",
            "valid YAML",
            "indent with spaces",
            id="tab",
        ),
        pytest.param(
            "listen: {port: 80\n", (2, 1), "", "expected ','", "valid YAML", None, id="syntax"
        ),
        pytest.param(
            "a: 1\n---\nb: 2\n",
            (2, 1),
            "",
            "another document",
            "valid YAML",
            "one document",
            id="two documents",
        ),
        pytest.param(
            "listen: &x\n  tls: *x\n",
            (1, 9),
            "listen.tls",
            "an alias inside",
            "no circle",
            None,
            id="circle",
        ),
        pytest.param(
            "run_dir: !!python/name:os.system\n",
            (1, 10),
            "run_dir",
            "the tag",
            "without a tag",
            None,
            id="tag",
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
