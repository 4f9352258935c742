"""Tokenizers that cannot be loaded."""

from __future__ import annotations

from pathlib import Path

from tests.gateway.config.texts import POOLS, only, written


def test_a_missing_file_is_refused_with_its_position(tmp_path: Path) -> None:
    text = POOLS + "limits:\n  tokenizers:\n    - {model: m, file: missing.json}\n"
    problem = only(written(tmp_path, text))
    assert problem.key == "limits.tokenizers[0].file"
    assert "missing.json" in str(problem.hint)
    assert problem.line == 4
