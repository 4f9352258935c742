"""What other processes use, as the kernel reports it: CPU time, memory, parents (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class GoneError(RuntimeError):
    """A measured process has ended."""


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat (proc_pid_stat(5)) that we read."""

    pid: int
    command: str
    parent: int
    ended_children_s: float
    """CPU seconds of its children that have ended and that it has waited for, and of their
    children; exact to a tick."""


@dataclass(frozen=True, slots=True)
class Memory:
    """/proc/PID/smaps_rollup: resident, and resident with shared pages divided by their users."""

    rss_bytes: int
    pss_bytes: int


def parse_stat(text: str, ticks_per_s: int = _TICKS_PER_S) -> Stat:
    """One line of /proc/PID/stat; the command may hold spaces and parentheses."""
    pid, _, rest = text.partition(" (")
    command, _, fields = rest.rpartition(") ")
    found = fields.split()
    user, system = map(int, found[13:15])
    return Stat(int(pid), command, int(found[1]), (user + system) / ticks_per_s)


def parse_memory(text: str) -> Memory:
    """The contents of smaps_rollup."""
    sizes = {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in text.splitlines()[1:])
    }
    return Memory(sizes["Rss"], sizes["Pss"])


def parse_busy_s(text: str, ticks_per_s: int = _TICKS_PER_S) -> float:
    """CPU seconds that the whole machine has worked, from /proc/stat; time of guests counts
    once."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, text.split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) / ticks_per_s


def machine_busy_s() -> float:
    """CPU seconds that the whole machine has worked since it was started."""
    return parse_busy_s((_PROC / "stat").read_text())


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of all threads of a process.

    It is the kernel's process clock, exact to the nanosecond; /proc/PID/stat is rounded to ticks.
    Raises GoneError.
    """
    clock = (~pid << 3) | 2  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the Linux ABI
    try:
        return time.clock_gettime(clock)
    except OSError as error:
        raise GoneError(f"process {pid} has ended") from error


def ended_children_s(pid: int) -> float:
    """CPU seconds of a process's children that have ended. Raises GoneError."""
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text()).ended_children_s
    except OSError as error:
        raise GoneError(f"process {pid} has ended") from error


def cpu_times_s(pids: Mapping[str, int]) -> dict[str, float]:
    """`cpu_s` of each process, by the given names."""
    return {name: cpu_s(pid) for name, pid in pids.items()}


def memory(pid: int) -> Memory:
    """Memory of a process. Raises GoneError."""
    try:
        return parse_memory((_PROC / str(pid) / "smaps_rollup").read_text())
    except (OSError, KeyError) as error:
        raise GoneError(f"process {pid} has ended") from error


def arguments(pid: int) -> list[str]:
    """The command line of a process; empty when it has ended."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError:
        return []


def children(parent: int) -> Iterator[int]:
    """The children of a process that still run."""
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = parse_stat((entry / "stat").read_text())
        except OSError:
            continue  # it ended meanwhile
        if stat.parent == parent:
            yield stat.pid


def family(pid: int) -> list[int]:
    """The process and all its descendants that still run."""
    found = [pid]
    for parent in found:
        found += children(parent)
    return found
