"""``penstock tenants``: who may use the gateway, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, cast

import orjson
import typer
import yaml
from pydantic import ValidationError

from gateway.commands import shorthand
from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.limits import allowed
from gateway.commands.output import AsJson, fail, in_a_line, say, show_json, show_table
from gateway.config.schema.limit import Limit

_AS_PLAN: Final = "plan"
_NOT_YET: Final = "Kept for the admission queue, which is not there yet: no effect so far."
app = typer.Typer(help="Tenants: who may use the gateway, and how much.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the tenant.", show_default=False)]
PlanName = Annotated[
    str | None, typer.Option("--plan", help="Plan it refers to; '' for none.", show_default=False)
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Model it may use, or a pattern; repeatable. 'plan': those of its plan.",
        show_default=False,
    ),
]
Priority = Annotated[
    str | None,
    typer.Option(
        "--priority",
        help=f"Priority class, or 'plan': that of its plan. {_NOT_YET}",
        show_default=False,
    ),
]
Weight = Annotated[
    str | None,
    typer.Option(
        "--weight",
        help=f"Share of a contended pool, or 'plan': that of its plan. {_NOT_YET}",
        show_default=False,
    ),
]
OnStoreFailure = Annotated[
    str | None,
    typer.Option(
        "--on-store-failure",
        help="open, closed or share: while the limit store is away. 'plan': as its plan says.",
        show_default=False,
    ),
]
NewLimits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help=f"A limit of its own; repeatable. {shorthand.LIMIT_FORM}. For example"
        " total_tokens=100k/minute,by=user",
        show_default=False,
    ),
]
GoneLimits = Annotated[
    list[str] | None,
    typer.Option("--no-limit", help="Name of a limit to remove; repeatable.", show_default=False),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        help="YAML file with the tenant as it would stand in the configuration; options win.",
        show_default=False,
    ),
]
_EDIT_ATTEMPTS: Final = 3


@app.command("list")
def list_(
    most: Annotated[int, typer.Option("--most", min=1, max=1_000, help="Rows at most.")] = 200,
    after: Annotated[str, typer.Option("--after", help="Begin after this name.")] = "",
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the tenants by name."""
    answer = Api.at(url, token_file).get(at("tenants"), {"limit": str(most), "cursor": after})
    if as_json:
        show_json(answer)
        return
    found = cast("list[Document]", answer["tenants"])
    if not found:
        say("No tenants. Make one: penstock tenants create NAME")
        return
    show_table(
        ("tenant", "plan", ">priority", "models", "own limits", "state", "kept in"),
        [
            (
                str(one["name"]),
                str(one["plan"] or ""),
                _or_plan(one["priority"]),
                " ".join(cast("list[str]", one["models"])) if one["models"] is not None else "plan",
                ", ".join(_limit_name(limit) for limit in cast("list[Document]", one["limits"])),
                "disabled" if one["disabled"] else "enabled",
                "configuration" if one["in_configuration"] else "registry",
            )
            for one in found
        ],
    )
    if answer["next"] is not None:
        say(f"More: penstock tenants list --after {answer['next']}")


@app.command()
def show(
    name: Name, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show one tenant."""
    _show(Api.at(url, token_file).get(at("tenants", name)), as_json=as_json)


@app.command()
def create(
    name: Name,
    plan: PlanName = None,
    model: Models = None,
    limit: NewLimits = None,
    priority: Priority = None,
    weight: Weight = None,
    on_store_failure: OnStoreFailure = None,
    file: File = None,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a tenant. Then make it a key: penstock keys create NAME."""
    document: Document = {} if file is None else _read(file)
    if document.setdefault("name", name) != name:
        fail(f"{file}: the tenant there is {document['name']!r}, not {name!r}")
    document |= _changes(plan, model, priority, weight, on_store_failure)
    if limit:
        document["limits"] = merged_limits(limits_in(document), limit, ())
    _show(Api.at(url, token_file).post(at("tenants"), document), as_json=as_json)


@app.command("set")
def set_(
    name: Name,
    plan: PlanName = None,
    model: Models = None,
    limit: NewLimits = None,
    no_limit: GoneLimits = None,
    priority: Priority = None,
    weight: Weight = None,
    on_store_failure: OnStoreFailure = None,
    file: File = None,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given of a tenant; a limit replaces the one of its name, or is added."""
    changes: Document = {} if file is None else _read(file)
    if changes.pop("name", name) != name:
        fail(f"{file}: the tenant there is another one, not {name!r}")
    changes |= _changes(plan, model, priority, weight, on_store_failure)
    if not (changes or limit or no_limit):
        fail("nothing to change: give at least one option, see penstock tenants set --help")
    api = Api.at(url, token_file)
    before = api.get(at("tenants", name))
    if limit or no_limit:
        known = limits_in(changes if "limits" in changes else before)
        changes["limits"] = merged_limits(known, limit or (), no_limit or ())
    changed = api.patch(at("tenants", name), changes, version=cast("int", before["version"]))
    _show(changed, as_json=as_json)


@app.command()
def disable(
    name: Name, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Refuse all requests of a tenant from now on."""
    _switch(Api.at(url, token_file), name, disabled=True, as_json=as_json)


@app.command()
def enable(
    name: Name, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Serve a disabled tenant again."""
    _switch(Api.at(url, token_file), name, disabled=False, as_json=as_json)


@app.command()
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete a tenant and revoke its keys. What it used stays in the ledger."""
    if not yes:
        typer.confirm(f"Delete tenant {name} and revoke its keys for ever?", abort=True)
    answer = Api.at(url, token_file).delete(at("tenants", name))
    if as_json:
        show_json(answer)
    else:
        say(f"Tenant {name} is deleted; keys revoked: {answer['revoked_keys']}.")


def _switch(api: Api, name: str, *, disabled: bool, as_json: bool) -> None:
    version = cast("int", api.get(at("tenants", name))["version"])
    answer = api.patch(at("tenants", name), {"disabled": disabled}, version=version)
    if as_json:
        show_json(answer)
    else:
        say(f"Tenant {name} is {'disabled' if disabled else 'enabled'}.")


def _show(tenant: Document, *, as_json: bool) -> None:
    if as_json:
        show_json(tenant)
        return
    models = tenant["models"]
    lines = {
        "tenant": str(tenant["name"]),
        "state": "disabled" if tenant["disabled"] else "enabled",
        "plan": str(tenant["plan"] or "none"),
        "priority": _or_plan(tenant["priority"]),
        "weight": _or_plan(tenant["weight"]),
        "models": _or_plan(models if models is None else " ".join(cast("list[str]", models))),
        "on store failure": _or_plan(tenant["on_store_failure"]),
        "kept in": "configuration" if tenant["in_configuration"] else "registry",
    }
    show_document(lines, limits_in(tenant))


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
                    _limit_name(limit),
                    allowed(limit | {"window": _window(limit)}),
                    " ".join(cast("list[str]", limit["by"])),
                    " ".join(cast("list[str]", limit["models"])) or "all",
                    " ".join(cast("list[str]", limit["pools"])) or "all",
                    "shadow" if limit["shadow"] else "enforced",
                )
                for limit in limits
            ],
        )


def _or_plan(value: object) -> str:
    return "plan" if value is None else str(value)


def _changes(
    plan: str | None,
    models: list[str] | None,
    priority: str | None,
    weight: str | None,
    on_store_failure: str | None,
) -> Document:
    """What was given; null is the plan's, and for the plan itself none."""
    found: Document = {}
    if plan is not None:
        found["plan"] = plan or None
    if models:
        found["models"] = None if models == [_AS_PLAN] else models_of(models)
    for key, text in (("priority", priority), ("weight", weight)):
        if text is not None:
            found[key] = None if text == _AS_PLAN else _whole(key, text)
    if on_store_failure is not None:
        found["on_store_failure"] = None if on_store_failure == _AS_PLAN else on_store_failure
    return found


def _whole(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        fail(f"--{option}: expected a whole number or plan, not {text!r}")


def models_of(patterns: list[str]) -> list[str]:
    """Patterns of the command line; ends the command when one is several."""
    for pattern in patterns:
        if any(c.isspace() for c in pattern):
            fail(f"--model {pattern!r}: a model has no white space in its name; repeat --model")
    return patterns


def _read(file: Path) -> Document:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"cannot read {file}: {' '.join(str(error).split())}")
    if not isinstance(found, dict):
        fail(f"{file}: expected the keys of a tenant, such as plan and limits")
    return cast("Document", found)


def limits_in(tenant: Document) -> list[Document]:
    """The limits of a tenant's or key's document; ends the command when there is something else."""
    limits = tenant.get("limits") or []
    if not isinstance(limits, list) or not all(isinstance(one, dict) for one in limits):
        fail("limits must be a list of limits")
    return cast("list[Document]", limits)


def merged_limits(
    known: list[Document], added: list[str] | tuple[()], gone: list[str] | tuple[()]
) -> list[Document]:
    """Limits after some, of the command line, were added or replaced and others, by name, removed;
    ends the command when there is none to remove."""
    found = {_limit_name(limit): limit for limit in known}
    for name in gone:
        if found.pop(name, None) is None:
            fail(f"it has no limit {name!r} of its own; it has {', '.join(found) or 'none'}")
    for text in added:
        limit = limit_of(text)
        found[_limit_name(limit)] = limit
    return list(found.values())


def limit_of(text: str) -> Document:
    """A limit of the command line; ends the command when it is none."""
    try:
        return shorthand.limit_of(text)
    except ValueError as error:
        fail(str(error))


def _limit_name(limit: Document) -> str:
    known = _known(limit)
    if known is not None:
        return known.effective_name
    return str(limit.get("name") or orjson.dumps(limit, option=orjson.OPT_SORT_KEYS))


def _window(limit: Document) -> str:
    known = _known(limit)
    return str(limit["window"]) if known is None else known.effective_window


def _known(limit: Document) -> Limit | None:
    """None: the server says what is wrong with it, or is of another version."""
    try:
        return Limit.model_validate_json(orjson.dumps(limit))
    except ValidationError:
        return None
