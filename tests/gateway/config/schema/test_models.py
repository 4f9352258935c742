"""Rules for model names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_refused


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("models: [{name: a, targets: []}]", "models[0].targets", "at least 1"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)
