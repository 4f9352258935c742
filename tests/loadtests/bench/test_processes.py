"""Reading what the kernel tells about processes."""

import os
import subprocess
import sys
import time

import pytest

from loadtests.bench import processes
from loadtests.bench.processes import GoneError, Memory, Stat


def test_a_command_may_look_like_the_fields_around_it() -> None:
    text = "4711 (a) S (b c) S 42 4711 4711 0 -1 4194304 100 0 0 0 12 3 150 50 20 0 1 0"
    assert processes.parse_stat(text, ticks_per_s=100) == Stat(4711, "a) S (b c", 42, 2.0)


def test_memory_is_told_in_bytes() -> None:
    text = (
        "55a4c0000000-7ffd00000000 ---p 00000000 00:00 0    [rollup]\n"
        "Rss:               13632 kB\nPss:                8888 kB\nPss_Dirty:          6872 kB\n"
    )
    assert processes.parse_memory(text) == Memory(13_632 * 1024, 8_888 * 1024)


def test_the_machine_is_busy_when_it_is_neither_idle_nor_waiting() -> None:
    # user, nice, system, idle, iowait, irq, softirq, steal, guest (already in user), guest_nice
    text = "cpu  700 20 200 99999 5555 30 50 77 600 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"
    assert processes.parse_busy_s(text, ticks_per_s=100) == 10.0


def test_cpu_time_of_another_process_grows_as_it_works() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        deadline_s = time.monotonic() + 20
        while processes.cpu_s(child.pid) < 0.2:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        assert child.pid in list(processes.children(os.getpid()))
        assert processes.arguments(child.pid)[-1] == "while True: pass"
        assert processes.memory(child.pid).rss_bytes >= processes.memory(child.pid).pss_bytes > 0
    finally:
        child.kill()
        child.wait()
    with pytest.raises(GoneError):
        processes.cpu_s(child.pid)
    with pytest.raises(GoneError):
        processes.memory(child.pid)
    assert processes.arguments(child.pid) == []


def test_our_own_cpu_time_is_the_one_that_python_knows() -> None:
    before_s, known_s = processes.cpu_s(os.getpid()), time.process_time()
    assert processes.cpu_s(os.getpid()) >= before_s
    assert before_s == pytest.approx(known_s, abs=0.05)
