"""What ``penstock up`` writes."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.run.up import append_to


def test_what_pickers_have_logged_to_the_same_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with path.open("wb", buffering=0) as file:  # as a shell's > opens it
        append_to(file.fileno())
        file.write(b"ready\n")
        with path.open("ab", buffering=0) as picker:
            picker.write(b"a line\n")
        file.write(b"stopping\n")
    assert path.read_bytes() == b"ready\na line\nstopping\n"


def test_what_is_no_file_stays_as_it_is() -> None:
    reading, writing = os.pipe()
    append_to(writing)
    os.write(writing, b"x")
    assert os.read(reading, 9) == b"x"
    os.close(reading)
    os.close(writing)
