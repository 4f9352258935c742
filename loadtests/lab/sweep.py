"""All runs of an experiment, several at a time. The number at a time changes only how long it
takes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from loadtests.lab.comparison import Cell, CellRun
from loadtests.lab.experiment import Experiment, run_cell
from loadtests.lab.source import LabError
from policies.registry import load_plugins

_POLL_S = 0.2


class Watcher(Protocol):
    """Is informed of the progress of the runs."""

    def served(self, cell: int, requests: int) -> None:
        """So many requests of a run are answered by now."""

    def finished(self, cell: int) -> None:
        """A run is over."""


class Unwatched:
    """A watcher for when nobody watches."""

    def served(self, cell: int, requests: int) -> None:
        return

    def finished(self, cell: int) -> None:
        return


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def sweep(
    experiment: Experiment, *, jobs: int = 1, watcher: Watcher | None = None
) -> tuple[CellRun, ...]:
    """Every run, in the order of the experiment's cells. Raises LabError, ValueError."""
    return run_cells(experiment, tuple(experiment.cells()), jobs=jobs, watcher=watcher)


def run_cells(
    experiment: Experiment,
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    watcher: Watcher | None = None,
) -> tuple[CellRun, ...]:
    """Some runs of the experiment, in the order given."""
    watcher = watcher or Unwatched()
    if jobs < 1:
        raise LabError(f"--jobs must be 1 or more, got {jobs}")
    if jobs == 1 or len(cells) == 1:
        return tuple(_here(experiment, cells, watcher))
    return _in_processes(experiment, cells, min(jobs, len(cells)), watcher)


def _here(experiment: Experiment, cells: Sequence[Cell], watcher: Watcher) -> Iterator[CellRun]:
    for index, cell in enumerate(cells):
        yield run_cell(experiment, cell, _telling(watcher.served, index))
        watcher.finished(index)


def _telling(tell: Callable[[int, int], None], cell: int) -> Callable[[float, int], None]:
    return lambda _now_s, requests: tell(cell, requests)


_Told = tuple[int, int]


def _in_processes(
    experiment: Experiment, cells: Sequence[Cell], jobs: int, watcher: Watcher
) -> tuple[CellRun, ...]:
    # Not forked: a forked copy of a process with threads (those of a progress bar) may hang.
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[_Told] = context.Queue()
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(experiment, told))
    try:
        futures = [pool.submit(_in_worker, index, cell) for index, cell in enumerate(cells)]
        _watch(futures, told, watcher)
        return tuple(future.result() for future in futures)
    except BrokenProcessPool as error:
        raise LabError(
            f"a worker process died, perhaps for want of memory: try fewer --jobs than {jobs}"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        # After an error or Ctrl-C the results of what still runs are useless; otherwise workers are
        # idle.
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
        told.close()


def _watch(
    futures: Sequence[Future[CellRun]], told: multiprocessing.Queue[_Told], watcher: Watcher
) -> None:
    """Watch until all runs are done, or one has failed."""
    open_cells = dict(enumerate(futures))
    while open_cells:
        try:
            while True:
                watcher.served(*told.get(timeout=_POLL_S))
        except queue.Empty:
            pass
        for index, future in list(open_cells.items()):
            if future.done():
                del open_cells[index]
                if future.exception() is not None:
                    return
                watcher.finished(index)


_experiment: Experiment | None = None
_told: multiprocessing.Queue[_Told] | None = None


def _begin(experiment: Experiment, told: multiprocessing.Queue[_Told]) -> None:
    """Runs once in each worker process, which has one experiment."""
    global _experiment, _told
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    load_plugins()
    _experiment, _told = experiment, told


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, so they watch it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _in_worker(index: int, cell: Cell) -> CellRun:
    assert _experiment is not None
    assert _told is not None
    told = _told
    return run_cell(_experiment, cell, _telling(lambda *news: told.put(news), index))


class Bar:
    """A progress bar over runs and the requests answered in them."""

    def __init__(self, progress: Progress, runs: int, what: str) -> None:
        self._progress = progress
        self._served = [0] * runs
        self._task = progress.add_task(what, total=runs, requests=0)

    def served(self, cell: int, requests: int) -> None:
        self._served[cell] = max(self._served[cell], requests)
        self._progress.update(self._task, requests=sum(self._served))

    def finished(self, cell: int) -> None:
        self._progress.advance(self._task)


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """Shows bars while the context is open; nothing, unless on a terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs, {task.fields[requests]:,} requests"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield progress
