"""``penstock tenants``: who may use the gateway, and how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, cast

import typer
import yaml

from gateway.commands import shorthand
from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.limit_documents import (
    GoneLimits,
    limit_name,
    limits_in,
    merged_limits,
    models_of,
    show_document,
)
from gateway.commands.output import AsJson, fail, say, show_json, show_table

_AS_PLAN: Final = "plan"
_NOT_YET: Final = "Reserved for the admission queue, which does not exist yet: no effect so far."
app = typer.Typer(help="Tenants: who may use the gateway, and how much.", no_args_is_help=True)

TenantName = Annotated[str, typer.Argument(help="Name of the tenant.", show_default=False)]
PlanOption = Annotated[
    str | None, typer.Option("--plan", help="Plan it refers to; '' for none.", show_default=False)
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Model it may use, or a pattern; repeatable. 'plan': those of its plan.",
        show_default=False,
    ),
]
PriorityOption = Annotated[
    str | None,
    typer.Option(
        "--priority",
        help=f"Priority class, or 'plan': that of its plan. {_NOT_YET}",
        show_default=False,
    ),
]
WeightOption = Annotated[
    str | None,
    typer.Option(
        "--weight",
        help=f"Share of a contended pool, or 'plan': that of its plan. {_NOT_YET}",
        show_default=False,
    ),
]
StoreFailureOption = Annotated[
    str | None,
    typer.Option(
        "--on-store-failure",
        help="open, closed or share: while the limit store is away. 'plan': as its plan says.",
        show_default=False,
    ),
]
LimitsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help=f"A limit of its own; repeatable. {shorthand.LIMIT_FORM}. For example"
        " total_tokens=100k/minute,by=user",
        show_default=False,
    ),
]
FileOption = Annotated[
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
                ", ".join(limit_name(limit) for limit in cast("list[Document]", one["limits"])),
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
    name: TenantName, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show one tenant."""
    _show(Api.at(url, token_file).get(at("tenants", name)), as_json=as_json)


@app.command()
def create(
    name: TenantName,
    plan: PlanOption = None,
    model: ModelsOption = None,
    limit: LimitsOption = None,
    priority: PriorityOption = None,
    weight: WeightOption = None,
    on_store_failure: StoreFailureOption = None,
    file: FileOption = None,
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
    name: TenantName,
    plan: PlanOption = None,
    model: ModelsOption = None,
    limit: LimitsOption = None,
    no_limit: GoneLimits = None,
    priority: PriorityOption = None,
    weight: WeightOption = None,
    on_store_failure: StoreFailureOption = None,
    file: FileOption = None,
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a tenant. A limit replaces the one of its name, or is added."""
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
    name: TenantName, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Refuse all requests of a tenant from now on."""
    _switch(Api.at(url, token_file), name, disabled=True, as_json=as_json)


@app.command()
def enable(
    name: TenantName, url: Url = LOCAL, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Serve a disabled tenant again."""
    _switch(Api.at(url, token_file), name, disabled=False, as_json=as_json)


@app.command()
def delete(
    name: TenantName,
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


def _or_plan(value: object) -> str:
    return "plan" if value is None else str(value)


def _changes(
    plan: str | None,
    models: list[str] | None,
    priority: str | None,
    weight: str | None,
    on_store_failure: str | None,
) -> Document:
    """The keys that were given. Null stands for the plan's value, and as plan for no plan."""
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


def _read(file: Path) -> Document:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"cannot read {file}: {' '.join(str(error).split())}")
    if not isinstance(found, dict):
        fail(f"{file}: expected the keys of a tenant, such as plan and limits")
    return cast("Document", found)
