"""``penstock usage``: what was used, and what it costs."""

from __future__ import annotations

from typing import Annotated, Final, cast

import typer

from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.output import (
    AsJson,
    amount,
    fail,
    number,
    say,
    sentence,
    show_json,
    show_table,
)

_COUNTS: Final = ("requests", "input_tokens", "cached_tokens", "output_tokens", "total_tokens")


def usage(
    first: Annotated[
        str | None, typer.Option("--from", help="First day, UTC. Default: 30 days up to --to.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="Last day, included. Default: today.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="Add up by month, day, tenant, key, user, model.")
    ] = "tenant",
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was used and what it costs.

    Cached tokens are part of the input tokens.
    """
    if as_csv and as_json:
        fail("--csv and --json exclude each other")
    api = Api.at(url, token_file)
    query = {"from": first, "to": last, "by": by, "tenant": tenant}
    if as_csv:
        typer.echo(api.text(at("usage"), {**query, "format": "csv"}), nl=False)
        return
    answer = api.get(at("usage"), query)
    if as_json:
        show_json(answer)
        return
    rows, currency = cast("list[Document]", answer["rows"]), str(answer["currency"])
    if not rows:
        say(f"Nothing was used from {answer['from']} to {answer['to']}.")
        if answer["note"] is not None:
            say(sentence(answer["note"]))
        return
    groups = cast("list[str]", answer["by"])
    shown = [tuple(str(row[group]) for group in groups) + _numbers(row, currency) for row in rows]
    total = cast("Document", answer["total"])
    shown.append(("total", *[""] * (len(groups) - 1), *_numbers(total, currency)))
    headings = [f">{count.removesuffix('_tokens')}" for count in _COUNTS]
    say(f"{answer['from']} to {answer['to']}")
    show_table((*groups, *headings, ">cost"), shown, total=True)


def _numbers(row: Document, currency: str) -> tuple[str, ...]:
    return (*(number(row[count]) for count in _COUNTS), amount(row["cost"], "cost", currency))
