"""Options that several commands have, and how they tell of mistakes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from loadtests.lab import choices
from loadtests.lab.comparison import Comparison
from loadtests.lab.source import LabError, Level, LevelKind, Source

Workload = Annotated[
    str,
    typer.Option(
        help="Of the catalogue (penstock lab workloads), or trace:PATH.", show_default=False
    ),
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile", help="Built-in (penstock lab profiles), or a file.", show_default=False
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(help="Seconds of sending (virtual). Rates: 600 when left out.", min=0.001),
]
Requests = Annotated[int | None, typer.Option(help="Requests at most.", min=1)]
Seeds = Annotated[int, typer.Option(help="Runs of each, with the seeds from 1 on.", min=1)]
Jobs = Annotated[int | None, typer.Option(help="Runs at a time; the cores when left out.", min=1)]
SloTtft = Annotated[float, typer.Option(help="Longest good time to first token, s.", min=0)]
SloTpot = Annotated[float, typer.Option(help="Longest good time per output token, s.", min=0)]
WarmUp = Annotated[float, typer.Option(help="Share of the time that figures leave out first.")]
CoolDown = Annotated[float, typer.Option(help="Share of the requests that they leave out last.")]
BatchedTokens = Annotated[int, typer.Option(help="As vLLM's.", min=1)]
NumSeqs = Annotated[int, typer.Option(help="As vLLM's.", min=1)]
ModelLen = Annotated[int, typer.Option(help="As vLLM's, shortened to what fits.", min=2)]
Loras = Annotated[int, typer.Option(help="LoRA slots of a replica.", min=0)]
Timeout = Annotated[
    float | None,
    typer.Option(help="Seconds after which clients give up; never when left out.", min=0.001),
]
Speed = Annotated[str, typer.Option(help="Of a trace, as times recorded: 1,2,4.")]
Rate = Annotated[str, typer.Option(help="Open loop, requests/s: 5,10 or 5:30:5 (a step of 5).")]
Concurrency = Annotated[str, typer.Option(help="Closed loop, clients: as --rate.")]


def levels(source: Source, rate: str, concurrency: str, speed: str) -> tuple[Level, ...]:
    """What is asked for by these options. Raises LabError."""
    return source.levels(
        rates=choices.numbers(rate, "--rate") if rate else (),
        concurrencies=choices.numbers(concurrency, "--concurrency") if concurrency else (),
        speeds=choices.numbers(speed, "--speed") if speed else (),
    )


def fits(comparison: Comparison) -> None:
    """Raises LabError where an option would be left unheard."""
    extent, kind = comparison.extent, comparison.levels[0].kind
    if kind is LevelKind.RAMP and extent.duration_s is not None:
        raise LabError("--duration: a ramp has its own stages; give a --rate to have one load")


def console() -> Console:
    """As wide as the terminal; wide enough for every column elsewhere."""
    return Console(width=None if sys.stdout.isatty() else 200)


def writable(path: Path, option: str) -> None:
    """Raises LabError where the file cannot be written: before hours of runs, not after."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise LabError(f"{option} {path}: {error.strerror}") from error


@contextmanager
def problems() -> Iterator[None]:
    """What a person can put right is told in a line; ValueError is the base of all of those."""
    try:
        yield
    except KeyboardInterrupt:
        fail("stopped", code=130)
    except ValueError as error:
        fail(str(error))


def fail(message: str, *, code: int = 1) -> NoReturn:
    """End with a message."""
    print(message, file=sys.stderr)
    raise typer.Exit(code)
