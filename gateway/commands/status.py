"""``penstock status``: whether requests are served, and what each replica does."""

from __future__ import annotations

from typing import cast

from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.output import AsJson, say, show_json, show_table


def status(url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show whether requests are served, what each replica does, and why one gets none."""
    document = Api.at(url, token_file).get(at("status"))
    if as_json:
        show_json(document)
        return
    missing = cast("list[str]", document["not_ready"])
    say(f"Not ready: {'; '.join(missing)}" if missing else "Ready.")
    rows = [
        _row(str(pool["name"]), endpoint)
        for pool in cast("list[Document]", document["pools"])
        for endpoint in cast("list[Document]", pool["endpoints"])
    ]
    if rows:
        show_table(
            ("pool", "replica", "state", ">in flight", ">running", ">waiting", "cache", "why"), rows
        )
    for pool in cast("list[Document]", document["pools"]):
        _show_predictions(str(pool["name"]), cast("list[Document]", pool["predictions"]))
        if isinstance(pool["shadow"], dict):
            _show_shadow(str(pool["name"]), pool["shadow"])


def _show_predictions(pool: str, predictions: list[Document]) -> None:
    for one in predictions:
        first, each = (_share(one[f"{key}_error_median"]) for key in ("ttft", "tpot"))
        say(
            f"Pool {pool}, {one['model']}: half of the predictions are off by less than {first}"
            f" (first token) and {each} (time per token)."
        )


def _show_shadow(pool: str, shadow: Document) -> None:
    failure = f"; the last one: {shadow['last_failure']}" if shadow["last_failure"] else ""
    say(
        f"Pool {pool}, shadow {shadow['policy']}: the same choice {shadow['agreed']} times, another"
        f" {shadow['differed']}, none {shadow['nothing']}; skipped {shadow['skipped']}, failed"
        f" {shadow['failed']}{failure}."
    )


def _share(value: object) -> str:
    return f"{value * 100:.1f} %" if isinstance(value, int | float) else "(unknown)"


def _row(pool: str, endpoint: Document) -> tuple[str, ...]:
    why = next(
        (str(endpoint[key]) for key in ("reason", "breaker", "warning") if endpoint[key]), ""
    )
    state = "serving" if endpoint["healthy"] else "out"
    if endpoint["draining"]:
        state = "draining"
    elif endpoint["healthy"] and endpoint["breaker"]:
        state = "failing"
    numbers = (
        f"{endpoint[key]:g}"
        for key in ("in_flight_requests", "running_requests", "waiting_requests")
    )
    cache = str(endpoint["cache"])
    return pool, str(endpoint["address"]), state, *numbers, cache, why
