"""Long runs: several at a time, each kept in a file when it is done."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from loadtests.lab.result import dumped
from policies.registry import load_plugins

R = TypeVar("R")


def keep(path: Path, document: Mapping[str, object]) -> None:
    """Write a result, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(dumped(document))
    part.replace(path)


def do_all(
    waiting: Sequence[R], do: Callable[[R], None], jobs: int, done: Callable[[R], None]
) -> None:
    """Do the runs, so many at a time, with more than one in processes of their own; ``done`` is
    called after each. An error ends all of them."""
    if jobs == 1:
        for run in waiting:
            do(run)
            done(run)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_begin) as pool:
        futures: dict[Future[None], R] = {pool.submit(do, run): run for run in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                done(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    load_plugins()
