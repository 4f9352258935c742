"""YAML of our kind only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import Refusal


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(
            Refusal(
                "listen: {port: 80}\nadmin: {port: 1}\nlisten: {port: 81}\n",
                (3, 1),
                "listen",
                "the key a second time (first in line 1)",
                "it once",
                None,
            ),
            id="duplicate key",
        ),
        pytest.param(
            Refusal(
                "listen:\n\tport: 80\n",
                (2, 1),
                "",
                "cannot start any token",
                "valid YAML",
                "indent with spaces",
            ),
            id="tab",
        ),
        pytest.param(
            Refusal("listen: {port: 80\n", (2, 1), "", "expected ','", "valid YAML", None),
            id="syntax",
        ),
        pytest.param(
            Refusal(
                "a: 1\n---\nb: 2\n", (2, 1), "", "another document", "valid YAML", "one document"
            ),
            id="two documents",
        ),
        pytest.param(
            Refusal(
                "listen: &x\n  tls: *x\n",
                (1, 9),
                "listen.tls",
                "an alias inside",
                "no circle",
                None,
            ),
            id="circle",
        ),
        pytest.param(
            Refusal(
                "run_dir: !!python/name:os.system\n",
                (1, 10),
                "run_dir",
                "the tag",
                "without a tag",
                None,
            ),
            id="tag",
        ),
    ],
)
def test_a_problem_has_its_position_and_says_what_is_right(
    tmp_path: Path, refusal: Refusal
) -> None:
    refusal.check(tmp_path)
