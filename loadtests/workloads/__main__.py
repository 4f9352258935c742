"""``python -m loadtests.workloads``: figures of the catalogue's workloads, or of a trace."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import orjson
from rich.console import Console
from rich.table import Table

from loadtests.workloads.catalogue import CATALOGUE, Load
from loadtests.workloads.sessions import Request
from loadtests.workloads.summary import Summary, summarize, walk
from loadtests.workloads.traces import TraceError, read_trace
from loadtests.workloads.traffic import OpenLoop, Traffic

_COLUMNS = (
    ("requests", "{:,.0f}"), ("sessions", "{:,.0f}"), ("duration_s", "{:,.0f}"),
    ("prompt_mean", "{:,.0f}"), ("prompt_p50", "{:,.0f}"), ("prompt_p99", "{:,.0f}"),
    ("output_mean", "{:,.0f}"), ("output_p50", "{:,.0f}"), ("output_p99", "{:,.0f}"),
    ("repeated", "{:.1%}"), ("repeated_elsewhere", "{:.1%}"), ("gap_cv", "{:.2f}"),
)  # fmt: skip


def main() -> None:
    """Command line."""
    given = _parse(sys.argv[1:])
    try:
        traffics = list(_traffics(given))
    except (TraceError, ValueError) as error:
        sys.exit(str(error))
    if given.dump is not None:
        with given.dump.open("wb") as file:
            summaries = [
                (name, summarize(_dumped(walk(traffic), file))) for name, traffic in traffics
            ]
    else:
        summaries = [(name, summarize(walk(traffic))) for name, traffic in traffics]
    Console(width=None if sys.stdout.isatty() else 200).print(_table(summaries, given.seed))


class _Given(argparse.Namespace):
    names: list[str]
    trace: Path | None
    seed: int
    requests: int
    rate: float | None
    cv: float
    concurrency: int | None
    speed: float
    dump: Path | None


def _parse(arguments: Sequence[str]) -> _Given:
    listed = "; ".join(f"{name}: {entry.about}" for name, entry in CATALOGUE.items())
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.workloads",
        description="Sizes, repetition and pace of workloads, as a server without limits sees them."
        f" {listed}.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="WORKLOAD", help="of the catalogue; all when left out"
    )
    parser.add_argument("--trace", type=Path, metavar="FILE", help="Mooncake .jsonl or Azure .csv")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--requests", type=int, default=2_000, help="at most; default 2,000")
    parser.add_argument("--rate", type=float, metavar="PER_S", help="open loop, requests/s")
    parser.add_argument("--cv", type=float, default=1.0, help="of gaps, with --rate; default 1")
    parser.add_argument("--concurrency", type=int, metavar="N", help="closed loop")
    parser.add_argument("--speed", type=float, default=1.0, help="of the trace; default 1")
    parser.add_argument(
        "--dump", type=Path, metavar="FILE", help="write the requests as JSON lines"
    )
    given = parser.parse_args(arguments, _Given())
    unknown = [name for name in given.names if name not in CATALOGUE]
    if unknown:
        parser.error(f"unknown workload {unknown[0]!r}: use one of {', '.join(CATALOGUE)}")
    if given.rate is not None and given.concurrency is not None:
        parser.error("--rate and --concurrency exclude each other")
    return given


def _traffics(given: _Given) -> Iterator[tuple[str, Traffic]]:
    if given.trace is not None:
        trace = read_trace(given.trace, limit=given.requests)
        yield trace.name, OpenLoop(trace, trace.times(speed=given.speed))
        return
    for name in given.names or CATALOGUE:
        entry = CATALOGUE[name]
        load = entry.load
        if given.rate is not None:
            load = Load.open(given.rate, duration_s=1e9, cv=given.cv)
        elif given.concurrency is not None:
            load = Load.closed(
                given.concurrency,
                recycle=load.recycle,
                requests_per_client=load.requests_per_client,
            )
        workload = entry.make(given.seed)
        yield name, load.traffic(workload, seed=given.seed, max_requests=given.requests)


def _dumped(requests: Iterator[Request], file: BinaryIO) -> Iterator[Request]:
    for request in requests:
        line = {
            "id": request.id,
            "session": request.session,
            "tenant": request.tenant,
            "adapter": request.adapter,
            "arrival_s": request.arrival_s,
            "prompt": [(segment.id, segment.tokens) for segment in request.prompt.segments],
            "output_tokens": request.output_tokens,
            "max_tokens": request.max_tokens,
        }
        file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        yield request


def _table(summaries: Sequence[tuple[str, Summary]], seed: int) -> Table:
    table = Table(title=f"Workloads, seed {seed} (tokens, seconds)")
    table.add_column("workload", no_wrap=True)
    for column, _ in _COLUMNS:
        table.add_column(column.replace("_", " "), justify="right")
    for name, summary in summaries:
        values = asdict(summary)
        table.add_row(name, *(form.format(values[column]) for column, form in _COLUMNS))
    return table


if __name__ == "__main__":
    main()
