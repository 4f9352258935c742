"""``penstock batches``: the batches of all tenants."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, cast

import typer

from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.output import AsJson, confirm, number, say, show_json, show_table

app = typer.Typer(help="Batches of all tenants.", no_args_is_help=True)

BatchId = Annotated[str, typer.Argument(help="Id of the batch.", show_default=False)]


@app.command("list")
def list_batches(
    tenant: Annotated[str, typer.Option(help="Only those of this tenant.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many, the newest.")] = 20,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List batches, the newest first."""
    query = {"tenant": tenant, "limit": str(limit)}
    document = Api.at(url, token_file).get(at("batches"), query)
    if as_json:
        show_json(document)
        return
    batches = cast("list[Document]", document["batches"])
    if not batches:
        say("There are no batches.")
        return
    columns = ("batch", "tenant", "status", ">lines", ">answered", ">failed", "created")
    show_table(columns, [_row(one) for one in batches])


@app.command()
def show(
    batch: BatchId, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show one batch."""
    document = Api.at(url, token_file).get(at("batches", batch))
    if as_json:
        show_json(document)
        return
    counts, used = cast("Document", document["request_counts"]), cast("Document", document["usage"])
    say(
        f"{document['id']}: {document['status']}, tenant {document['tenant']},"
        f" {document['endpoint']}, model {document['model'] or '(unknown)'}"
    )
    say(
        f"{number(counts['total'])} lines: {number(counts['completed'])} answered,"
        f" {number(counts['failed'])} failed; {number(used['input_tokens'])} input and"
        f" {number(used['output_tokens'])} output tokens."
    )
    for name in ("created", "in_progress", "cancelling", "completed", "failed", "cancelled"):
        if document[f"{name}_at"] is not None:
            say(f"{name.replace('_', ' ')}: {_time(document[f'{name}_at'])}")
    say(f"expires: {_time(document['expires_at'])}")
    errors = document["errors"]
    if isinstance(errors, dict):
        for error in errors["data"]:
            where = f"line {error['line']}: " if error["line"] is not None else ""
            say(f"{where}{error['code']}: {error['message']}")


@app.command()
def cancel(
    batch: BatchId, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Cancel a batch; what is answered by then is kept."""
    document = Api.at(url, token_file).post(at("batches", batch, "cancel"), {})
    confirm(document, f"{document['id']} is {document['status']}.", as_json=as_json)


def _row(batch: Document) -> tuple[str, ...]:
    counts = cast("Document", batch["request_counts"])
    return (
        str(batch["id"]),
        str(batch["tenant"]),
        str(batch["status"]),
        *(number(counts[key]) for key in ("total", "completed", "failed")),
        _time(batch["created_at"]),
    )


def _time(value: object) -> str:
    assert isinstance(value, int)
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
