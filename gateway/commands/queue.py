"""``penstock queue``: what waits for the pools, and for how long."""

from __future__ import annotations

from typing import cast

from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.output import AsJson, say, show_json, show_table


def queue(url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show which requests wait for their pools, whose they are, and how long they will."""
    document = Api.at(url, token_file).get(at("queue"))
    if as_json:
        show_json(document)
        return
    pools = cast("list[Document]", document["pools"])
    if not pools:
        say("No pool has a queue.")
    for pool in pools:
        full = cast("float", pool["saturation"])
        say(f"{pool['pool']}: {pool['requests']} waiting, {full:.0%} of the replicas are full.")
    rows = [
        _row(str(pool["pool"]), one, flow)
        for pool in pools
        for one in cast("list[Document]", pool["classes"])
        for flow in cast("list[Document]", one["flows"])
    ]
    if rows:
        columns = ("pool", ">priority", "tenant", ">waiting", ">tokens", ">oldest", ">next waits")
        show_table(columns, rows)


def _row(pool: str, one: Document, flow: Document) -> tuple[str, ...]:
    return (
        pool,
        str(one["priority"]),
        str(flow["flow"]) or "(others)",
        str(flow["requests"]),
        str(flow["tokens"]),
        f"{flow['oldest_s']:.1f} s",
        f"{flow['predicted_wait_s']:.1f} s",
    )
