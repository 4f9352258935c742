"""``python -m loadtests.workloads``: figures of the catalogue's workloads, or of a trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO

import orjson
import typer
from rich.console import Console
from rich.table import Table

from loadtests.workloads.catalogue import CATALOGUE, CatalogueEntry, Load
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


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORKLOAD", help=f"of {', '.join(CATALOGUE)}; all when left out"),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Mooncake .jsonl or Azure .csv")] = None,
    seed: Annotated[int, typer.Option(help="of sessions and arrivals")] = 1,
    requests: Annotated[int, typer.Option(help="at most")] = 2_000,
    rate: Annotated[float | None, typer.Option(help="open loop, requests/s")] = None,
    cv: Annotated[float, typer.Option(help="of gaps, with --rate")] = 1.0,
    concurrency: Annotated[int | None, typer.Option(help="closed loop, clients")] = None,
    speed: Annotated[float, typer.Option(help="of the trace")] = 1.0,
    dump: Annotated[Path | None, typer.Option(help="write the requests as JSON lines")] = None,
) -> None:
    """Sizes, repetition and pace of workloads, as a server without limits sees them."""
    for name in names or ():
        if name not in CATALOGUE:
            use = ", ".join(CATALOGUE)
            raise typer.BadParameter(f"unknown workload {name!r}: use one of {use}")
    if rate is not None and concurrency is not None:
        raise typer.BadParameter("--rate and --concurrency exclude each other")
    try:
        if trace is not None:
            recorded = read_trace(trace, limit=requests)
            times_s = recorded.times(speed=speed)
            traffics: list[tuple[str, Traffic]] = [(recorded.name, OpenLoop(recorded, times_s))]
        else:
            traffics = [
                (name, _traffic(CATALOGUE[name], seed, requests, rate, cv, concurrency))
                for name in names or CATALOGUE
            ]
    except (TraceError, ValueError) as error:
        sys.exit(str(error))
    with nullcontext() if dump is None else dump.open("wb") as file:
        summaries = [
            (name, summarize(walk(traffic) if file is None else _dumped(walk(traffic), file)))
            for name, traffic in traffics
        ]
    Console(width=None if sys.stdout.isatty() else 200).print(_table(summaries, seed))


def _traffic(
    entry: CatalogueEntry,
    seed: int,
    requests: int,
    rate: float | None,
    cv: float,
    concurrency: int | None,
) -> Traffic:
    load = entry.load
    if rate is not None:
        # As long as the requests last.
        load = Load.open(rate, duration_s=1e9, cv=cv)
    elif concurrency is not None:
        each = load.requests_per_client
        load = Load.closed(concurrency, recycle=load.recycle, requests_per_client=each)
    return load.traffic(entry.make(seed), seed=seed, max_requests=requests)


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
    typer.run(main)
