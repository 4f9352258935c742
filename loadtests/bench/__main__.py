"""``python -m loadtests.bench``: measure Penstock on this machine, and print one table."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from loadtests.bench import processes
from loadtests.bench.figures import (
    batches,
    bodies,
    decision,
    fleet,
    gateways,
    hearing,
    kv_index,
    latency,
    limits,
    long,
    micro,
    queue,
    scale,
    streaming,
    tenants,
)
from loadtests.bench.figures.measurement import Effort, Figure, OwnFigure
from loadtests.bench.processes import GoneError
from loadtests.bench.rows import Row, comparison, markdown, notes, table
from loadtests.bench.stand import Stand, StandError

_FEW: Final = 4
FIGURES: Final = (
    Figure("decision", "picker CPU per request", _FEW, decision.per_request),
    Figure("saturation", "requests per second and core", _FEW, decision.saturation),
    Figure("latency", "added latency", _FEW, latency.added),
    Figure("limits", "what limits add to a request", _FEW, limits.cost),
    Figure("tenants", "memory, 100,000 tenants", _FEW, tenants.memory),
    Figure("idle", "idle CPU, 100 replicas", fleet.REPLICAS, fleet.idle),
    Figure("memory", "memory, 100 replicas", fleet.REPLICAS, fleet.memory),
)
OWN_FIGURES: Final = (
    OwnFigure("streaming", "CPU per streamed token", streaming.per_token),
    OwnFigure("scale", "picker CPU per request among many replicas", scale.per_request),
    OwnFigure("reading", "CPU of reading 1,000 busy replicas", scale.reading),
    OwnFigure("bodies", "what one hostile body does to all others", bodies.worst),
    OwnFigure("kv-index", "exact index of what replicas have cached", kv_index.rows),
    OwnFigure("queue", "10,000 requests that wait", queue.rows),
    OwnFigure("hearing", "CPU per request of another picker", hearing.per_request),
)
ASKED_FOR: Final = (
    OwnFigure("micro", "parts of a decision alone", micro.rows),
    OwnFigure("long", "long prompts of tenants with budgets", long.per_core),
    OwnFigure("batches", "a batch beside interactive traffic", batches.beside),
    OwnFigure("gateways", "Penstock among other gateways, in the public method", gateways.compared),
)
"""Left out unless asked for."""


def main() -> None:
    """Command line."""
    given = _parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, _terminated)
    chosen = given.only or [figure.name for figure in (*FIGURES, *OWN_FIGURES)]
    console = Console()
    began_s, busy_s, own_s = time.monotonic(), processes.machine_busy_s(), _used_s()
    try:
        rows = list(_measure(chosen, console, given))
    except (StandError, GoneError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; all processes have been ended")
    took_s = time.monotonic() - began_s
    others_cores = (processes.machine_busy_s() - busy_s - (_used_s() - own_s)) / took_s
    title = _machine(took_s, others_cores, quick=given.quick)
    # On a pipe there is no width to fit into.
    report = console if console.is_terminal else Console(width=160)
    plain = table(rows, title)
    report.print(plain if plain.row_count else title)
    if (compared := comparison(rows)) is not None:
        report.print(compared)
        for note in notes(rows):
            report.print(note, style="dim", markup=False, highlight=False)
    if given.markdown is not None:
        given.markdown.write_text(f"{title}\n\n{markdown(rows)}")
    if given.json is not None:
        document = {"machine": title, "rows": [asdict(row) for row in rows]}
        given.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


class _Given(argparse.Namespace):
    only: list[str] | None
    quick: bool
    gateway: list[str] | None
    json: Path | None
    markdown: Path | None


def _parse(arguments: Sequence[str]) -> _Given:
    known = (*FIGURES, *OWN_FIGURES, *ASKED_FOR)
    listed = ", ".join(f"{figure.name} ({figure.about})" for figure in known)
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description="Measure what Penstock costs, on this machine and loopback.",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[figure.name for figure in known],
        metavar="NAME",
        help=f"one figure; may be repeated: {listed}",
    )
    parser.add_argument(
        "--gateway",
        action="append",
        metavar="NAME",
        help="compare only this one; may be repeated: envoy, penstock, litellm, vllm, sglang",
    )
    parser.add_argument("--quick", action="store_true", help="less exact, about two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the comparison of gateways there too"
    )
    return parser.parse_args(arguments, _Given())


def _measure(chosen: Sequence[str], console: Console, given: _Given) -> Iterator[Row]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[now]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("bench", total=len(chosen), now="")

        def say(what: str) -> None:
            progress.update(task, now=what)

        parts = [name.lower() for name in given.gateway or ()]
        effort = Effort(quick=given.quick, say=say, gateways=parts)
        wanted = [figure for figure in FIGURES if figure.name in chosen]
        for replicas, figures in groupby(wanted, lambda figure: figure.replicas):
            progress.update(task, description="test stand")
            say(f"starting the gateway and {replicas} replicas")
            with Stand(replicas) as stand:
                for figure in figures:
                    _begin(figure.about, progress, task)
                    yield from figure.measure(stand, effort)
                    progress.advance(task)
                say("stopping")
        for own in (*OWN_FIGURES, *ASKED_FOR):
            if own.name in chosen:
                _begin(own.about, progress, task)
                yield from own.measure(effort)
                progress.advance(task)


def _begin(about: str, progress: Progress, task: TaskID) -> None:
    progress.update(task, description=about)
    if not progress.console.is_terminal:
        progress.console.print(f"measuring: {about}")


def _used_s() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _machine(took_s: float, others_cores: float, *, quick: bool) -> str:
    title = (
        f"Penstock on {os.cpu_count()} cores of {_processor()}, Python {platform.python_version()},"
        f" everything on loopback; measured in {took_s:.0f} s"
    )
    if quick:
        title += " (--quick: less exact)"
    if others_cores > 0.1:
        title += f"\nOther work on this machine took {others_cores:.1f} cores: do not trust times."
    return title


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
