"""Scheduling profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_refused


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (
            "scheduling: {profiles: {p: {policy: {name: x}, scorers: [{name: kv}]}}}",
            "scheduling.profiles.p",
            "either `policy` alone",
        ),
        ("scheduling: {profiles: {p: {}}}", "scheduling.profiles.p", "at least one scorer"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)
