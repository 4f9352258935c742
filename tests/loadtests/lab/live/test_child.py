"""Processes that the lab starts."""

import asyncio
import sys
from pathlib import Path

import psutil

from loadtests.lab.live.child import LabChild

BURN = "import time\nwhile time.process_time() < 0.3: pass"


async def test_the_cpu_of_a_worker_that_has_ended_still_counts(tmp_path: Path) -> None:
    parent = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {BURN!r}]);"
    command = [sys.executable, "-c", parent + " print('over', flush=True); time.sleep(60)"]

    async def over() -> bool:
        return "over" in child.output()

    async with LabChild("parent", command, tmp_path / "log") as child:
        await child.until(over, within_s=30)
        assert list(psutil.Process(child.pid).children()) == []
        assert child.cpu_s() >= 0.3


async def test_what_a_process_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    # The worker hears no SIGTERM, its parent dies of it.
    command = ["sh", "-c", "(trap '' TERM; sleep 60) & echo up; wait"]

    async def up() -> bool:
        return "up" in child.output() and bool(psutil.Process(child.pid).children())

    async with LabChild("parent", command, tmp_path / "log") as child:
        await child.until(up, within_s=30)
        family = psutil.Process(child.pid).children(recursive=True)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


async def test_a_process_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    async with LabChild("it", ["sh", "-c", "echo out of luck; exit 3"], tmp_path / "log") as child:
        problem = await asyncio.wait_for(child.ended(), 30)
        assert str(problem) == "it has ended with 3 in the middle of a run:\n  out of luck"
