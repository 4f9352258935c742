"""Printing: tables for people, JSON for programs, one line when a command fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE: Final = 500
"""Columns on a pipe, where nothing may be cut off."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(message: str) -> NoReturn:
    """End the command with this line and exit code 1."""
    typer.echo(plain(message), err=True)
    raise typer.Exit(1)


def show_json(document: Mapping[str, object]) -> None:
    """Print a document as the API sent it."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, total: bool = False
) -> None:
    """Print rows under their columns; ``>`` before a column's name aligns it to the right.
    ``total``: the last row sums the others up."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    for index, row in enumerate(rows):
        last = total and index == len(rows) - 1
        table.add_row(*(Text(in_a_line(cell)) for cell in row), style="bold" if last else None)
    out = console()
    with out.capture() as printed:
        out.print(table)
    typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def say(line: str) -> None:
    """Print a line."""
    console().print(Text(plain(line)), soft_wrap=True)


def sentence(note: object) -> str:
    """A remark of an answer, for people."""
    text = str(note)
    return f"{text[:1].upper()}{text[1:]}."


def console() -> Console:
    """Standard output, wide enough for every table where it is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDE)


def plain(text: str) -> str:
    """Text without control characters and without those that change the direction of writing."""
    return "\n".join(map(in_a_line, text.split("\n")))


def in_a_line(text: str) -> str:
    """As `plain`, and without line breaks: clients name users and models, and a name must not look
    like another row."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def number(value: object) -> str:
    """A number with commas between its thousands."""
    if isinstance(value, float) and not value.is_integer():
        return f"{Decimal(str(value)):,}"
    return f"{int(value):,}" if isinstance(value, int | float) else str(value)


def amount(value: object, count: str, currency: str) -> str:
    """An amount of what a limit counts. Money has at least two decimal places."""
    if count != "cost" or not isinstance(value, int | float):
        return number(value)
    whole, _, places = f"{Decimal(str(value)):,f}".partition(".")
    return f"{whole}.{places.rstrip('0'):0<2} {currency}".rstrip()


def span(seconds: float) -> str:
    """A length of time for people, in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if whole >= length:
            parts.append(f"{whole // length} {unit}")
            whole %= length
        elif parts:
            break
    return " ".join(parts[:2])


def day_and_time(value: object) -> str:
    """A time of an answer, in UTC to the minute; "" for none."""
    if not isinstance(value, str):
        return ""
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
