"""``penstock keys``: API keys of tenants."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, cast

import typer

from gateway.commands import shorthand
from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.limit_documents import (
    GoneLimits,
    limit_of,
    limits_in,
    merged_limits,
    models_of,
    show_document,
)
from gateway.commands.output import AsJson, day_and_time, fail, say, show_json, show_table

app = typer.Typer(help="API keys of tenants.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(help="Id of the key.", show_default=False)]
ExpiresOption = Annotated[
    str | None,
    typer.Option(
        "--expires",
        help="When it expires: 90d, 2027-01-31 or 2027-01-31T12:00:00Z.",
        show_default=False,
    ),
]
KeyLimitsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help=f"A limit of this key alone; repeatable. {shorthand.LIMIT_FORM}",
        show_default=False,
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the key and nothing else, for scripts.")
]


@app.command("list")
def list_(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Of this tenant only.", show_default=False)
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=1_000, help="Rows at most.")] = 200,
    after: Annotated[str, typer.Option("--after", help="Begin after this id.")] = "",
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List keys, also expired and revoked ones. The keys themselves are kept nowhere."""
    query = {"tenant": tenant, "limit": str(most), "cursor": after}
    answer = Api.at(url, token_file).get(at("keys"), query)
    if as_json:
        show_json(answer)
        return
    found = cast("list[Document]", answer["keys"])
    if not found:
        say("No keys. Make one: penstock keys create TENANT")
        return
    show_table(
        ("key", "tenant", "name", "state", "created", "expires", "models", "kept in"),
        [
            (
                str(one["id"]),
                str(one["tenant"]),
                str(one["name"]),
                str(one["state"]),
                day_and_time(one["created"]),
                day_and_time(one["expires"]) or "never",
                " ".join(cast("list[str]", one["models"])),
                "configuration" if one["in_configuration"] else "registry",
            )
            for one in found
        ],
    )
    if answer["next"] is not None:
        say(f"More: penstock keys list --after {answer['next']}")


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Name of the tenant.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="What you call it.")] = "",
    expires: ExpiresOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Model it may use, of the tenant's, or a pattern; repeatable.",
            show_default=False,
        ),
    ] = None,
    limit: KeyLimitsOption = None,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    quiet: QuietOption = False,
    as_json: AsJson = False,
) -> None:
    """Make a key for a tenant. It is shown only once."""
    body: Document = {"tenant": tenant, "name": name}
    if expires is not None:
        body["expires"] = _instant(expires)
    if model:
        body["models"] = models_of(model)
    if limit:
        body["limits"] = [limit_of(text) for text in limit]
    made = Api.at(url, token_file).post(at("keys"), body)
    _show_new(made, quiet=quiet, as_json=as_json)


@app.command("set")
def set_(
    key: KeyId,
    name: Annotated[
        str | None, typer.Option("--name", help="What you call it.", show_default=False)
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            help="When it expires: 90d, 2027-01-31, 2027-01-31T12:00:00Z or never.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Model it may use, of the tenant's, or a pattern, instead of those so far;"
            " repeatable. '*': all.",
            show_default=False,
        ),
    ] = None,
    limit: KeyLimitsOption = None,
    no_limit: GoneLimits = None,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a key. A limit replaces the one of its name, or is added."""
    changes: Document = {}
    if name is not None:
        changes["name"] = name
    if expires is not None:
        changes["expires"] = None if expires == "never" else _instant(expires)
    if model:
        changes["models"] = models_of(model)
    if not (changes or limit or no_limit):
        fail("nothing to change: give at least one option, see penstock keys set --help")
    api = Api.at(url, token_file)
    before = api.get(at("keys", key))
    if limit or no_limit:
        changes["limits"] = merged_limits(limits_in(before), limit or (), no_limit or ())
    changed = api.patch(at("keys", key), changes, version=cast("int", before["version"]))
    if as_json:
        show_json(changed)
        return
    lines = {
        "key": str(changed["id"]),
        "tenant": str(changed["tenant"]),
        "name": str(changed["name"]),
        "state": str(changed["state"]),
        "expires": day_and_time(changed["expires"]) or "never",
        "models": " ".join(cast("list[str]", changed["models"])),
    }
    show_document(lines, limits_in(changed))


@app.command()
def rotate(
    key: KeyId,
    overlap: Annotated[
        str, typer.Option("--overlap", help="How long the old key stays good: 0s, 30min, 24h, 7d.")
    ] = "24h",
    expires: ExpiresOption = None,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    quiet: QuietOption = False,
    as_json: AsJson = False,
) -> None:
    """Make a new key in place of an old one, which stays good for the overlap."""
    body: Document = {"overlap_s": _seconds(overlap)}
    if expires is not None:
        body["expires"] = _instant(expires)
    made = Api.at(url, token_file).post(at("keys", key, "rotate"), body)
    _show_new(made, quiet=quiet, as_json=as_json)
    if not (quiet or as_json):
        say(f"The old key {key} stays good for {overlap}.")


@app.command()
def revoke(
    key: KeyId, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Refuse a key from now on: within a second, and for ever."""
    answer = Api.at(url, token_file).post(at("keys", key, "revoke"), {})
    if as_json:
        show_json(answer)
    else:
        say(f"Key {key} of tenant {answer['tenant']} is revoked.")


def _show_new(made: Document, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        show_json(made)
        return
    if quiet:
        typer.echo(made["key"])
        return
    expires = day_and_time(made["expires"])
    until = f", good until {expires}" if expires else ""
    say(f"Key {made['id']} of tenant {made['tenant']}{until}:")
    say(f"\n  {made['key']}\n")
    say("Keep it now: it is not shown again, and Penstock has only its hash.")


def _instant(text: str) -> str:
    try:
        return shorthand.instant_of(text, datetime.now(UTC))
    except ValueError as error:
        fail(str(error))


def _seconds(text: str) -> float:
    try:
        return shorthand.seconds_of(text)
    except ValueError as error:
        fail(str(error))
