"""Real child processes, small Python programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.children.child import (
    Backoff,
    Child,
    ChildError,
    ChildSpec,
    ChildState,
    Launch,
)

QUICK = Backoff(initial_s=0.02, max_s=0.1, stable_after_s=60)
FOREVER = "import time\nprint('up', flush=True)\ntime.sleep(600)"

Start = Callable[..., Child]


def python(code: str, *arguments: str) -> Callable[[], Launch]:
    command = (sys.executable, "-c", textwrap.dedent(code), *arguments)
    return lambda: Launch(command)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    children: list[Child] = []

    def started(code: str, *arguments: str, **options: Any) -> Child:
        launch = options.pop("launch", None) or python(code, *arguments)
        states = options.pop("states", None)
        options.setdefault("backoff", QUICK)
        on_state = None if states is None else lambda child: states.append(child.state)
        child = Child(ChildSpec("it", launch, **options), on_state=on_state)
        children.append(child)
        child.start()
        return child

    yield started
    for child in children:
        await child.stop()


async def until(condition: Callable[[], object], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - any condition, also of the outside
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_runs_until_stopped_and_tells_its_states(start: Start) -> None:
    states: list[ChildState] = []
    child = start(FOREVER, states=states)
    await child.wait_ready()
    pid = child.pid
    assert pid is not None
    await until(lambda: child.output() == ("up",))
    await child.stop()
    assert gone(pid)
    assert child.pid is None
    assert states == [
        ChildState.STARTING,
        ChildState.READY,
        ChildState.STOPPING,
        ChildState.STOPPED,
    ]


async def test_is_ready_only_when_the_probe_says_so(start: Start, tmp_path: Path) -> None:
    flag = tmp_path / "flag"

    async def ready() -> bool:
        return flag.exists()

    child = start(FOREVER, ready=ready, ready_interval_s=0.01)
    waiting = asyncio.create_task(child.wait_ready())
    await until(lambda: child.output())
    assert child.state is ChildState.STARTING
    assert not waiting.done()
    flag.touch()
    await waiting


async def test_one_that_is_never_ready_is_killed_and_tried_again(start: Start) -> None:
    async def never() -> bool:
        raise ConnectionRefusedError

    child = start(FOREVER, ready=never, ready_interval_s=0.01, ready_timeout_s=0.3)
    with pytest.raises(ChildError, match=r"not ready within 0.3 s\n  up"):
        await child.wait_ready()
    await until(lambda: child.restarts == 1)


async def test_a_probe_that_hangs_does_not_outlast_the_ready_timeout(start: Start) -> None:
    async def hangs() -> bool:
        await asyncio.sleep(600)
        return True

    child = start(FOREVER, ready=hangs, ready_timeout_s=0.2)
    with pytest.raises(ChildError, match="not ready within"):
        await child.wait_ready()


async def test_an_early_end_is_told_with_its_last_output(start: Start) -> None:
    async def never() -> bool:
        return False

    child = start("import sys; print('hello', flush=True); sys.exit('bad flag')", ready=never)
    with pytest.raises(ChildError) as caught:
        await child.wait_ready()
    assert caught.value.ending.reason == "exit code 1"
    assert caught.value.ending.output == ("hello", "bad flag")
    assert "bad flag" in str(caught.value)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (Launch(("no-such-program-anywhere",)), "no such program"),
        (Launch((sys.executable, "-c", ""), cwd=Path("/nowhere")), "no such folder"),
    ],
)
async def test_what_cannot_be_started_says_why(start: Start, launch: Launch, message: str) -> None:
    child = start("", launch=lambda: launch)
    with pytest.raises(ChildError, match=message):
        await child.wait_ready()
    assert child.state is ChildState.BACKOFF


async def test_restarts_after_a_crash_with_a_new_pid(start: Start) -> None:
    child = start(FOREVER)
    await child.wait_ready()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGSEGV)
    await until(lambda: child.restarts == 1 and child.state is ChildState.READY)
    assert child.pid != first
    assert child.last_exit is not None
    assert child.last_exit.reason == "killed by SIGSEGV"


async def test_does_not_restart_when_told_not_to(start: Start) -> None:
    child = start("", restart=False)
    await until(lambda: child.state is ChildState.STOPPED)
    assert child.restarts == 0


async def test_every_start_asks_for_its_command(start: Start) -> None:
    starts = iter(range(100))

    def launch() -> Launch:
        return python(f"print('run {next(starts)}')")()

    child = start("", launch=launch)
    await until(lambda: {"run 0", "run 1", "run 2"} <= set(child.output()))


async def test_waits_grow_and_start_over_after_a_stable_time() -> None:
    waits: list[float] = []
    now_s = 0.0

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    class NoJitter(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    def clock() -> float:
        nonlocal now_s
        if len(waits) == 4:  # the fifth run: each look at the clock is 100 s after the last
            now_s += 100
        return now_s

    child = Child(
        ChildSpec("it", python("pass"), backoff=Backoff(initial_s=1, max_s=5, stable_after_s=60)),
        clock=clock,
        sleep=sleep,
        rng=NoJitter(),
    )
    child.start()
    await until(lambda: len(waits) >= 6)
    await child.stop()
    assert waits[:4] == [1, 2, 4, 5]
    assert waits[4:6] == [1, 2]


async def test_backoff_has_jitter_and_a_limit() -> None:
    backoff = Backoff(initial_s=1, max_s=30)
    rng = random.Random(1)
    waits = [backoff.wait_s(3, rng) for _ in range(200)]
    assert 2 <= min(waits) < 2.2
    assert 3.8 < max(waits) <= 4
    assert backoff.wait_s(10_000, rng) <= 30


async def test_stop_during_a_long_backoff_is_immediate(start: Start) -> None:
    child = start("", backoff=Backoff(initial_s=300, max_s=300))
    await until(lambda: child.state is ChildState.BACKOFF)
    begun_s = time.monotonic()
    await child.stop()
    assert time.monotonic() - begun_s < 1


async def test_sigterm_lets_it_finish(start: Start) -> None:
    child = start(
        """
        import signal, sys, time
        def end(*_):
            print("bye", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("up", flush=True)
        time.sleep(600)
        """
    )
    await until(lambda: child.output())
    await child.stop()
    assert child.output() == ("up", "bye")


async def test_sigkill_after_the_grace(start: Start) -> None:
    child = start(
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("up", flush=True)
        time.sleep(600)
        """,
        grace_s=0.3,
    )
    await until(lambda: child.output())
    pid = child.pid
    assert pid is not None
    begun_s = time.monotonic()
    await child.stop()
    assert 0.3 <= time.monotonic() - begun_s < 3
    assert gone(pid)


GRANDCHILD = """
    import subprocess, sys, time
    grandchild = subprocess.Popen([sys.executable, "-c", {code!r}])
    time.sleep(0.3)
    print(grandchild.pid, flush=True)
    {then}
    """


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(600)",
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)",
    ],
    ids=["ends on SIGTERM", "ignores SIGTERM"],
)
async def test_stop_takes_grandchildren_along(start: Start, code: str) -> None:
    child = start(GRANDCHILD.format(code=code, then="time.sleep(600)"), grace_s=0.5)
    await until(lambda: child.output())
    grandchild = int(child.output()[0])
    assert not gone(grandchild)
    await child.stop()
    await until(lambda: gone(grandchild), 2)


async def test_a_crash_takes_grandchildren_along(start: Start) -> None:
    code = "import time; time.sleep(600)"
    child = start(GRANDCHILD.format(code=code, then="sys.exit(1)"), restart=False)
    await until(lambda: child.state is ChildState.STOPPED)
    grandchild = int(child.output()[0])
    await until(lambda: gone(grandchild), 2)


@pytest.mark.parametrize("moment_s", [0, 0.001, 0.01, 0.05, 0.3])
async def test_cancelling_stop_leaves_nothing(moment_s: float) -> None:
    before = set(psutil.Process().children())
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    child = Child(ChildSpec("it", python(code), grace_s=600))
    child.start()
    await asyncio.sleep(moment_s)
    stopping = asyncio.create_task(child.stop())
    await asyncio.sleep(0.01)
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    await until(lambda: set(psutil.Process().children()) <= before, 2)
    assert child.state is ChildState.STOPPED


@pytest.mark.parametrize("death_signal", [signal.SIGKILL, signal.SIGTERM])
async def test_dies_with_its_supervisor(tmp_path: Path, death_signal: signal.Signals) -> None:
    supervisor = f"""
        import asyncio, sys
        from gateway.children.child import Child, ChildSpec, Launch
        import signal

        async def main():
            command = (sys.executable, "-c", "import time; time.sleep(600)")
            child = Child(ChildSpec("it", lambda: Launch(command),
                                    death_signal=signal.Signals({int(death_signal)})))
            child.start()
            await child.wait_ready()
            await asyncio.sleep(0.3)
            print(child.pid, flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(supervisor), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    assert not gone(pid)
    process.kill()
    await process.wait()
    await until(lambda: gone(pid), 2)


async def test_output_goes_to_a_file_of_bounded_size(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "it.log"
    child = start(
        "for i in range(3000): print(f'line {i:05}', flush=True)",
        restart=False,
        log_file=log,
        log_limit_bytes=10_000,
        tail_lines=3,
    )
    await until(lambda: child.state is ChildState.STOPPED)
    assert child.output() == ("line 02997", "line 02998", "line 02999")
    older = log.with_name("it.log.1")
    assert log.stat().st_size <= 10_000
    assert older.stat().st_size <= 10_000
    assert (older.read_text() + log.read_text()).endswith("line 02999\n")


async def test_a_log_that_cannot_be_written_does_not_hurt(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    child = start("print('fine')", restart=False, log_file=tmp_path / "file" / "it.log")
    await until(lambda: child.state is ChildState.STOPPED)
    assert child.output() == ("fine",)


async def test_a_flood_without_line_ends_is_bounded_in_memory(start: Start) -> None:
    child = start("import sys; sys.stdout.write('x' * 3_000_000)", restart=False)
    await until(lambda: child.state is ChildState.STOPPED)
    assert [len(line) for line in child.output()] == [4000]


async def test_environment_and_folder_are_the_given_ones(start: Start, tmp_path: Path) -> None:
    code = "import os; print(os.environ['COLOUR'], os.getcwd())"
    command = (sys.executable, "-c", code)
    child = start("", launch=lambda: Launch(command, {"COLOUR": "blue"}, tmp_path), restart=False)
    await until(lambda: child.state is ChildState.STOPPED)
    assert child.output() == (f"blue {tmp_path}",)


async def test_no_descriptor_is_left_after_many_restarts(start: Start) -> None:
    child = start("print('once')", backoff=Backoff(initial_s=0.001, max_s=0.001))
    await until(lambda: child.restarts >= 2)
    before = psutil.Process().num_fds()
    await until(lambda: child.restarts >= 12)
    await child.stop()
    assert psutil.Process().num_fds() <= before


def test_works_on_uvloop() -> None:
    import uvloop

    async def main() -> None:
        child = Child(ChildSpec("it", python(FOREVER)))
        child.start()
        await child.wait_ready()
        await until(lambda: child.output() == ("up",))
        pid = child.pid
        await child.stop()
        assert pid is not None
        assert gone(pid)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
