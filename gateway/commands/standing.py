"""``penstock limits``: the standing of limits: what is left, and when they reset."""

from __future__ import annotations

from typing import Annotated, Final, cast

import typer

from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.output import AsJson, amount, say, sentence, show_json, show_table, span

_MOST_TENANTS: Final = 20


def limits(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant.")] = None,
    key: Annotated[str | None, typer.Option(help="Also what is left of limits by key.")] = None,
    user: Annotated[str | None, typer.Option(help="Also what is left of limits by user.")] = None,
    model: Annotated[str | None, typer.Option(help="Also limits by or for the model.")] = None,
    pool: Annotated[str | None, typer.Option(help="Also limits by or for the pool.")] = None,
    session: Annotated[str | None, typer.Option(help="Also limits by session.")] = None,
    agent: Annotated[str | None, typer.Option(help="Also limits by agent.")] = None,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what is left of a tenant's limits, and when it is back.

    Without a tenant: of the first 20 tenants.
    """
    api = Api.at(url, token_file)
    others = {"key": key, "user": user, "model": model, "pool": pool}
    others |= {"session": session, "agent": agent}
    more = False
    if tenant or key:
        answers = [api.get(at("limits"), {"tenant": tenant, **others})]
    else:
        listed = api.get(at("tenants"), {"limit": str(_MOST_TENANTS)})
        more = listed["next"] is not None
        names = [str(one["name"]) for one in cast("list[Document]", listed["tenants"])]
        answers = [api.get(at("limits"), {"tenant": name, **others}) for name in names]
    if as_json:
        show_json(answers[0] if tenant or key else {"tenants": answers})
        return
    rows = [
        (str(answer["tenant"]), *_row(limit, str(answer["currency"])))
        for answer in answers
        for limit in cast("list[Document]", answer["limits"])
    ]
    for answer in answers:
        if answer["note"] is not None:
            say(sentence(answer["note"]))
    if not rows:
        say("No limits hold here. Limits by key, user and the like show when you name one.")
        return
    show_table(("tenant", "limit", "of", "allowed", ">used", ">left", ">resets in", "mode"), rows)
    if more:
        say(f"There are more than {_MOST_TENANTS} tenants: name one with --tenant.")


def _row(limit: Document, currency: str) -> tuple[str, ...]:
    count = str(limit["count"])
    of = cast("dict[str, str]", limit["of"])
    reset_s = cast("float", limit["reset_s"])
    return (
        str(limit["name"]),
        " ".join(f"{by} {value}" for by, value in of.items()),
        allowed(limit, currency),
        amount(limit["used"], count, currency),
        amount(limit["remaining"], count, currency),
        span(reset_s) if reset_s > 0 else "",
        "shadow" if limit["shadow"] else "enforced",
    )


def allowed(limit: Document, currency: str = "") -> str:
    """A limit for people: ``100,000 per minute, 200,000 at once``."""
    count = str(limit["count"])
    most = amount(limit["limit"], count, currency)
    if count == "concurrency":
        return f"{most} at once"
    if limit["period"] is None:
        idle_s = cast("float | None", limit["idle_s"])
        return f"{most} in all" if idle_s is None else f"{most} until idle for {span(idle_s)}"
    found = f"{most} per {limit['period']}"
    if limit["window"] == "calendar":
        zone = limit["time_zone"]
        return f"{found} (calendar)" if zone in (None, "UTC") else f"{found} (calendar, {zone})"
    burst = limit["burst"]
    if burst is not None and burst != limit["limit"]:
        found += f", {amount(burst, count, currency)} at once"
    return found
