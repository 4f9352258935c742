"""What a worker has learned, in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.run.learned import LearnedFile


def test_what_is_saved_is_loaded_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    assert LearnedFile(path).load() == {}
    LearnedFile(path).save({"chat": [{"name": "x", "learned": {"a": 1.5}}]})
    assert LearnedFile(path).load() == {"chat": [{"name": "x", "learned": {"a": 1.5}}]}
    assert [file.name for file in tmp_path.iterdir()] == ["learned.json"]


def test_the_same_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    file = LearnedFile(path)
    file.save({})
    assert not path.exists()
    file.save({"a": [1]})
    path.unlink()
    file.save({"a": [1]})
    assert not path.exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_broken_file_is_as_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "learned.json"
    path.write_bytes(data)
    assert LearnedFile(path).load() == {}


def test_a_folder_that_cannot_be_written_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LearnedFile(tmp_path / "missing" / "learned.json").save({"a": [1]})
    assert "is not saved" in caplog.text
