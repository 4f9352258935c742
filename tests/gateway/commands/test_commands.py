"""What a person sees who manages tenants of a running Penstock from the command line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from gateway.cli import app
from gateway.control.accounts import AccountsClient
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from tests.gateway.admin.place import TODAY, Place, place
from tests.gateway.admin.test_accounts import UNKNOWN

DAYS = ("--from", "2027-01-01", "--to", "2027-01-15")


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """Runs commands against one Penstock."""

    def __init__(self, made: Place, url: str) -> None:
        self.place, self.url = made, url
        self.environment: dict[str, str | None] = {
            "PENSTOCK_ADMIN_URL": url,
            "PENSTOCK_ADMIN_TOKEN": None,
        }

    async def any(self, *words: str, answers: str = "") -> Printed:
        """A command, whatever comes of it."""
        result = await asyncio.to_thread(
            CliRunner().invoke, app, words, input=answers, env=self.environment
        )
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return Printed(result.exit_code, result.stdout, result.stderr)

    async def __call__(self, *words: str) -> Printed:
        """A command that succeeds."""
        printed = await self.any(*words)
        assert (printed.code, printed.err) == (0, "")
        return printed

    async def refused(self, *words: str) -> str:
        """The one line of a command that fails."""
        printed = await self.any(*words)
        assert (printed.code, printed.out) == (1, "")
        (line,) = printed.err.splitlines()
        return line


@pytest.fixture
async def penstock() -> AsyncIterator[Terminal]:
    async with place() as (made, url):
        yield Terminal(made, url)


@pytest.fixture
async def unknown() -> AsyncIterator[Terminal]:
    """Where tenants need not be configured."""
    async with place(UNKNOWN) as (made, url):
        yield Terminal(made, url)


def cells(line: str) -> list[str]:
    """Of a table's line: columns are at least two spaces apart."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


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
    assert "a time is written like 90d" in await refused(
        *("keys", "create", "fixed", "--expires", "soon")
    )
    for words in (
        ("keys", "create", "fixed"),
        ("keys", "set", "ci"),
        ("tenants", "create", "acme"),
    ):
        assert "repeat --model" in await refused(*words, "--model", "llama qwen")
    assert "stands in the configuration" in await refused("keys", "set", "ci", "--name", "x")
    assert "nothing to change" in await refused("keys", "set", "ci")
    assert "there is no key 'a/b'" in await refused("keys", "revoke", "a/b")
    assert "cannot group by 'hour'" in await refused("usage", "--by", "hour")
    assert "exclude each other" in await refused("usage", "--csv", "--json")


async def test_a_key_is_shown_once(penstock: Terminal) -> None:
    made = await penstock(
        *("keys", "create", "fixed", "--name", "laptop", "--expires", "2040-01-01"),
        *("--limit", "requests=3/day"),
    )
    first = made.out.splitlines()[0]
    key_id = first.split()[1]
    assert first == f"Key {key_id} of tenant fixed, good until 2040-01-01 00:00 UTC:"
    assert f"\n  psk_{key_id}_" in made.out
    assert "not shown again" in made.out
    listed = await penstock("keys", "list", "--tenant", "fixed")
    assert "psk_" not in listed.out
    row = next(cells(line) for line in listed.out.splitlines() if line.startswith(key_id))
    assert (row[1:4], row[5]) == (["fixed", "laptop", "active"], "2040-01-01 00:00 UTC")

    rotated = await penstock("keys", "rotate", key_id, "--overlap", "30min")
    new_id = rotated.out.split()[1]
    assert new_id != key_id
    assert f"The old key {key_id} stays good for 30min." in rotated.out
    revoked = await penstock("keys", "revoke", key_id)
    assert revoked.out == f"Key {key_id} of tenant fixed is revoked.\n"
    states = {
        one["id"]: one["state"] for one in (await penstock("keys", "list", "--json")).json["keys"]
    }
    assert states == {"ci": "active", key_id: "revoked", new_id: "active"}


async def test_a_key_is_changed(penstock: Terminal) -> None:
    made = await penstock("keys", "create", "fixed", "--limit", "requests=3/day", "--quiet")
    key_id = made.out.split("_")[1]
    changed = await penstock(
        *("keys", "set", key_id, "--name", "laptop", "--model", "llama-*", "--model", "qwen"),
        *("--expires", "2040-01-01", "--limit", "cost=2/day", "--no-limit", "requests-per-day"),
    )
    assert [cells(line) for line in changed.out.splitlines()] == [
        ["key", key_id],
        ["tenant", "fixed"],
        ["name", "laptop"],
        ["state", "active"],
        ["expires", "2040-01-01 00:00 UTC"],
        ["models", "llama-* qwen"],
        [],
        ["own limit", "allowed", "separately by", "models", "pools", "mode"],
        ["cost-per-day", "2.00 per day (calendar)", "all", "all", "enforced"],
    ]
    changed = await penstock("keys", "set", key_id, "--expires", "never", "--json")
    assert (changed.json["expires"], changed.json["name"]) == (None, "laptop")
    assert "it has no limit 'x' of its own" in await penstock.refused(
        *("keys", "set", key_id, "--no-limit", "x")
    )


async def test_a_script_gets_the_key_alone(penstock: Terminal) -> None:
    made = await penstock("keys", "create", "fixed", "--quiet")
    (key,) = made.out.split()
    assert key.startswith("psk_")
    rotated = await penstock("keys", "rotate", key.split("_")[1], "--quiet")
    assert rotated.out.startswith("psk_")
    assert len(rotated.out.split()) == 1


async def test_what_is_left(penstock: Terminal) -> None:
    bob = Subject("fixed", "ci", "bob", "llama", "main")
    await penstock.place.use(bob, Usage(15_000, 1_000), key_id="ci")
    shown = await penstock("limits", "--key", "ci", "--user", "bob")
    assert [cells(line) for line in shown.out.splitlines()] == [
        ["tenant", "limit", "of", "allowed", "used", "left", "resets in", "mode"],
        ["fixed", "requests-per-minute", "60 per minute", "1", "59", "1.0 s", "enforced"],
        [
            *("fixed", "total_tokens-per-minute-by-user", "user bob"),
            *("10,000 per minute, 20,000 at once", "16,000", "4,000", "1 min 36 s", "enforced"),
        ],
        [
            *("fixed", "cost-per-month", "12.50 USD per month (calendar)"),
            *("0.017 USD", "12.483 USD", "16 d 12 h", "enforced"),
        ],
        ["fixed", "concurrency-by-key", "key ci", "4 at once", "0", "4", "enforced"],
    ]
    await penstock("tenants", "create", "acme", "--limit", "requests=5/day,shadow")
    everybody = await penstock("limits")
    assert [cells(line)[:2] for line in everybody.out.splitlines()[1:]] == [
        ["acme", "requests-per-day"],
        ["fixed", "requests-per-minute"],
        ["fixed", "cost-per-month"],
    ]
    assert "shadow" in everybody.out.splitlines()[1]
    as_json = await penstock("limits", "--tenant", "acme", "--json")
    assert as_json.json["limits"][0]["remaining"] == 5
    assert await penstock.refused("limits", "--tenant", "nobody")


async def test_what_was_used(penstock: Terminal) -> None:
    bob = Subject("fixed", "ci", "bob\x1b[31m", "llama", "main")
    await penstock.place.use(bob, Usage(1_500, 100, cached_tokens=400), key_id="ci")
    await penstock.place.use(bob, Usage(1, 1), key_id="ci", day=TODAY - timedelta(days=1))
    shown = await penstock("usage", *DAYS, "--by", "day,user")
    assert [cells(line) for line in shown.out.splitlines()] == [
        ["2027-01-01 to 2027-01-15"],
        ["day", "user", "requests", "input", "cached", "output", "total", "cost"],
        ["2027-01-14", "bob�[31m", "1", "1", "0", "1", "2", "0.000003 USD"],
        ["2027-01-15", "bob�[31m", "1", "1,500", "400", "100", "1,600", "0.0017 USD"],
        ["total", "2", "1,501", "400", "101", "1,602", "0.001703 USD"],
    ]
    as_csv = await penstock("usage", *DAYS, "--csv")
    assert as_csv.out.splitlines()[1] == "fixed,2,1501,400,101,1602,0.001703"
    assert (await penstock("usage", *DAYS, "--json")).json["total"]["requests"] == 2
    nothing = await penstock("usage", *DAYS, "--tenant", "nobody")
    assert nothing.out.splitlines() == [
        "Nothing was used from 2027-01-01 to 2027-01-15.",
        "There is no tenant 'nobody'.",
    ]
    nothing = await penstock("usage", "--from", "2026-12-01", "--to", "2026-12-02")
    assert nothing.out == "Nothing was used from 2026-12-01 to 2026-12-02.\n"


async def test_a_name_of_a_client_is_one_cell_of_one_row(penstock: Terminal) -> None:
    eve = Subject("fixed", "ci", "eve\nann  1,000\u2028\u202ecba", "llama", "main")
    await penstock.place.use(eve, Usage(1, 1), key_id="ci")
    shown = await penstock("usage", *DAYS, "--by", "user")
    assert len(shown.out.splitlines()) == 4  # the days, the columns, Eve and the total
    assert shown.out.splitlines()[2].startswith("eve�ann  1,000��cba ")


async def test_a_tenant_that_is_not_configured(unknown: Terminal) -> None:
    shown = await unknown("limits", "--tenant", "nope")
    first, _, row = shown.out.splitlines()
    assert first == (
        "The tenant 'nope' is not configured; the plan free of unknown_tenants would apply."
    )
    assert cells(row)[:2] == ["nope", "requests-per-day"]


async def test_the_token(penstock: Terminal, tmp_path: Path) -> None:
    penstock.place.token = "correct horse"
    line = await penstock.refused("tenants", "list")
    assert line == (
        f"{penstock.url} asks for the admin token: give --token-file FILE or set"
        " PENSTOCK_ADMIN_TOKEN"
    )
    file = tmp_path / "token"
    file.write_text("correct horse\n")
    await penstock("tenants", "list", "--token-file", str(file))
    penstock.environment["PENSTOCK_ADMIN_TOKEN"] = "correct horse"
    await penstock("tenants", "list")
    penstock.environment["PENSTOCK_ADMIN_TOKEN"] = "wrong"
    line = await penstock.refused("tenants", "list")
    assert line == f"{penstock.url} does not accept this admin token"
    assert "cannot read the token" in await penstock.refused(
        *("tenants", "list", "--token-file", str(tmp_path / "none"))
    )


async def test_nobody_answers(penstock: Terminal, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    line = await penstock.refused("usage", "--url", url)
    assert line == (
        f"nobody answers at {url}: start Penstock with `penstock up -c FILE`, or tell with --url"
        " where it runs"
    )
    assert "is no URL" in await penstock.refused("usage", "--url", "127.0.0.1:8090")


async def test_somebody_else_answers(penstock: Terminal) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="<html>\x1b[2J")

    other = web.Application()
    other.router.add_get("/api/tenants", hello)
    runner = web.AppRunner(other)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        for words in (("tenants", "list"), ("usage",)):
            line = await penstock.refused(*words, "--url", url)
            assert "the answer is not that of an admin API of Penstock" in line
    finally:
        await runner.cleanup()


async def test_the_pickers_are_gone(penstock: Terminal) -> None:
    penstock.place.accounts = AccountsClient(list)
    assert await penstock.refused("usage") == "no picker runs"


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
