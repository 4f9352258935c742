"""Models and limits in the JSON documents of tenants and keys: edited by options, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import orjson
import typer
from pydantic import ValidationError

from gateway.commands import shorthand
from gateway.commands.api import Document
from gateway.commands.output import fail, in_a_line, say, show_table
from gateway.commands.standing import allowed
from gateway.config.schema.limit import Limit

GoneLimits = Annotated[
    list[str] | None,
    typer.Option("--no-limit", help="Name of a limit to remove; repeatable.", show_default=False),
]


def show_document(lines: Mapping[str, str], limits: list[Document]) -> None:
    """Print what a tenant or key is, and its own limits."""
    width = max(map(len, lines))
    for key, value in lines.items():
        say(f"{key:{width}}  {in_a_line(value)}".rstrip())
    if limits:
        say("")
        show_table(
            ("own limit", "allowed", "separately by", "models", "pools", "mode"),
            [
                (
                    limit_name(limit),
                    allowed(limit | {"window": _window(limit)}),
                    " ".join(cast("list[str]", limit["by"])),
                    " ".join(cast("list[str]", limit["models"])) or "all",
                    " ".join(cast("list[str]", limit["pools"])) or "all",
                    "shadow" if limit["shadow"] else "enforced",
                )
                for limit in limits
            ],
        )


def models_of(patterns: list[str]) -> list[str]:
    """Patterns of models from the command line; ends the command when one holds white space."""
    for pattern in patterns:
        if any(c.isspace() for c in pattern):
            fail(f"--model {pattern!r}: a model has no white space in its name; repeat --model")
    return patterns


def limits_in(tenant: Document) -> list[Document]:
    """The limits of a tenant's or key's document; ends the command when it holds something else."""
    limits = tenant.get("limits") or []
    if not isinstance(limits, list) or not all(isinstance(one, dict) for one in limits):
        fail("limits must be a list of limits")
    return cast("list[Document]", limits)


def merged_limits(
    known: list[Document], added: Sequence[str], gone: Sequence[str]
) -> list[Document]:
    """The known limits without those named in ``gone``, and with those written in ``added``, which
    replace limits of the same name. Ends the command when a limit to remove is not there."""
    found = {limit_name(limit): limit for limit in known}
    for name in gone:
        if found.pop(name, None) is None:
            fail(f"it has no limit {name!r} of its own; it has {', '.join(found) or 'none'}")
    for text in added:
        limit = limit_of(text)
        found[limit_name(limit)] = limit
    return list(found.values())


def limit_of(text: str) -> Document:
    """A limit from the command line; ends the command when it is not one."""
    try:
        return shorthand.limit_of(text)
    except ValueError as error:
        fail(str(error))


def limit_name(limit: Document) -> str:
    """The name that the server gives it; for a limit that is not sound, some name of its own."""
    known = _known(limit)
    if known is not None:
        return known.effective_name
    return str(limit.get("name") or orjson.dumps(limit, option=orjson.OPT_SORT_KEYS))


def _window(limit: Document) -> str:
    known = _known(limit)
    return str(limit["window"]) if known is None else known.effective_window


def _known(limit: Document) -> Limit | None:
    """None for a limit that this version does not accept: the server says what is wrong with it."""
    try:
        return Limit.model_validate_json(orjson.dumps(limit))
    except ValidationError:
        return None
