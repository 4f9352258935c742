"""``penstock tenants``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.gateway.commands.terminal import Terminal, cells


async def test_a_tenant_is_made_changed_and_deleted(penstock: Terminal) -> None:
    made = await penstock(
        *("tenants", "create", "acme", "--plan", "gold", "--model", "llama-*", "--priority", "5"),
        *("--limit", "total_tokens=100k/minute,burst=200k", "--limit", "cost=25/month"),
    )
    shown = [cells(line) for line in made.out.splitlines()]
    assert ["tenant", "acme"] in shown
    assert ["plan", "gold"] in shown
    assert ["models", "llama-*"] in shown
    assert ["weight", "plan"] in shown
    limits = {row[0]: row[1] for row in shown if len(row) > 2}
    assert limits["total_tokens-per-minute"] == "100,000 per minute, 200,000 at once"
    assert limits["cost-per-month"] == "25.00 per month (calendar)"
    assert (await penstock("tenants", "show", "acme")).out == made.out

    changed = await penstock(
        *("tenants", "set", "acme", "--limit", "total_tokens=5/minute", "--plan", ""),
        *("--no-limit", "cost-per-month", "--json"),
    )
    assert changed.json["plan"] is None
    assert changed.json["models"] == ["llama-*"]
    assert [(one["count"], one["limit"]) for one in changed.json["limits"]] == [("total_tokens", 5)]

    assert (await penstock("tenants", "disable", "acme")).out == "Tenant acme is disabled.\n"
    listed = await penstock("tenants", "list")
    assert [cells(line) for line in listed.out.splitlines()] == [
        ["tenant", "plan", "priority", "models", "own limits", "state", "kept in"],
        ["acme", "5", "llama-*", "total_tokens-per-minute", "disabled", "registry"],
        ["fixed", "gold", "plan", "plan", "enabled", "configuration"],
    ]
    assert (await penstock("tenants", "enable", "acme")).out == "Tenant acme is enabled.\n"
    await penstock("keys", "create", "acme")
    gone = await penstock("tenants", "delete", "acme", "--yes")
    assert gone.out == "Tenant acme is deleted; keys revoked: 1.\n"
    assert await penstock.refused("tenants", "show", "acme") == "there is no tenant 'acme'"


async def test_what_a_tenant_has_of_its_own_is_given_back_to_its_plan(penstock: Terminal) -> None:
    own = ("--priority", "0", "--weight", "3", "--model", "a", "--on-store-failure", "closed")
    made = await penstock("tenants", "create", "acme", "--plan", "gold", *own, "--json")
    keys = ("priority", "weight", "models", "on_store_failure")
    assert [made.json[key] for key in keys] == [0, 3, ["a"], "closed"]
    plans = [word if word.startswith("--") else "plan" for word in own]
    changed = await penstock("tenants", "set", "acme", *plans, "--json")
    assert [changed.json[key] for key in keys] == [None] * 4
    assert "not 'high'" in await penstock.refused("tenants", "set", "acme", "--priority", "high")


async def test_a_tenant_from_a_file(penstock: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text("plan: gold\nlimits: [{count: requests, limit: 5, period: second}]\n")
    made = await penstock(
        *("tenants", "create", "acme", "-f", str(file), "--limit", "concurrency=3", "--json")
    )
    assert made.json["plan"] == "gold"
    assert [one["count"] for one in made.json["limits"]] == ["requests", "concurrency"]
    file.write_text("name: other\n")
    assert "is 'other', not 'acme'" in await penstock.refused(
        *("tenants", "create", "acme", "-f", str(file))
    )
    file.write_text("plan: [")
    assert "cannot read" in await penstock.refused("tenants", "create", "a", "-f", str(file))


async def test_deleting_is_asked_for(penstock: Terminal) -> None:
    await penstock("tenants", "create", "acme")
    printed = await penstock.any("tenants", "delete", "acme", answers="n\n")
    assert printed.code == 1
    assert "Delete tenant acme and revoke its keys for ever?" in printed.out
    assert (await penstock("tenants", "show", "acme", "--json")).json["name"] == "acme"


async def test_what_cannot_be_done_is_one_line(penstock: Terminal) -> None:
    refused = penstock.refused
    assert "it begins with what it counts" in await refused(
        *("tenants", "create", "acme", "--limit", "tokens=5/minute")
    )
    assert "silver" in await refused("tenants", "create", "acme", "--plan", "silver")
    assert "limits[0].period" in await refused(
        *("tenants", "create", "acme", "--limit", "requests=5")
    )
    assert "stands in the configuration" in await refused("tenants", "disable", "fixed")
    assert "nothing to change" in await refused("tenants", "set", "fixed")
    assert "it has no limit 'x' of its own" in await refused(
        *("tenants", "set", "fixed", "--no-limit", "x")
    )
    assert "repeat --model" in await refused("tenants", "create", "acme", "--model", "llama qwen")


async def test_long_lists_come_in_parts(penstock: Terminal) -> None:
    for name in ("a", "b", "c"):
        await penstock("tenants", "create", name)
    shown = await penstock("tenants", "list", "--most", "2")
    assert shown.out.splitlines()[-1] == "More: penstock tenants list --after b"
    rest = await penstock("tenants", "list", "--after", "b")
    assert [line.split()[0] for line in rest.out.splitlines()[1:]] == ["c", "fixed"]


async def test_the_installed_command(penstock: Terminal) -> None:
    program = Path(sys.executable).parent / "penstock"
    child = await asyncio.create_subprocess_exec(
        *(str(program), "tenants", "list", "--url", penstock.url),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    assert out.decode().splitlines()[1].startswith("fixed ")
