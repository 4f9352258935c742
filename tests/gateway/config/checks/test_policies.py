"""Policies that do not exist, or do not take these parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import Refusal


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(
            Refusal(
                "scheduling: {profiles: {p: {scorers: [{name: queu}]}}}\n",
                (1, 46),
                "scheduling.profiles.p.scorers[0].name",
                '"queu"',
                "a scorer: one of",
                "did you mean queue?",
            ),
            id="unknown scorer",
        ),
        pytest.param(
            Refusal(
                "scheduling:\n  profiles:\n"
                "    p: {filters: [{name: max-waiting, params: {x: 1}}],\n"
                "        scorers: [{name: kv}]}\n",
                (3, 47),
                "scheduling.profiles.p.filters[0].params",
                "a mapping with the keys x",
                "unknown parameter 'x'",
                None,
            ),
            id="unknown parameter",
        ),
    ],
)
def test_a_problem_has_its_position_and_says_what_is_right(
    tmp_path: Path, refusal: Refusal
) -> None:
    refusal.check(tmp_path)
