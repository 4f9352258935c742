"""The run folder: one Penstock at a time, and nothing of an earlier one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.run.rundir import RunDir, RunDirError


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not in the test's folder: unix sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="pst-") as made:
        yield Path(made) / "run"


def test_a_second_penstock_is_refused_with_the_pid_of_the_first(folder: Path) -> None:
    first = RunDir.create(folder)
    control = first.control_socket
    control.touch()
    with pytest.raises(RunDirError, match=rf"is used by the Penstock with pid {os.getpid()}\b"):
        RunDir.create(folder)
    assert control.exists()
    first.remove()
    RunDir.create(folder).remove()


def test_the_lock_ends_with_its_process_and_no_child_inherits_it(folder: Path) -> None:
    held = RunDir.create(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        held.remove()
        RunDir.create(folder).remove()
        child.communicate(b"\n")


def test_what_an_earlier_run_left_is_removed(folder: Path) -> None:
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "picker-3.sock"))
    (folder / "eds.pool.gone.json").touch()
    (folder / "mine.txt").touch()
    run = RunDir.create(folder)
    assert not (folder / "picker-3.sock").exists()
    assert not (folder / "eds.pool.gone.json").exists()
    assert (folder / "mine.txt").exists()
    run.remove()
    assert folder.exists()
