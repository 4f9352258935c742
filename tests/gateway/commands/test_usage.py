"""``penstock usage``."""

from __future__ import annotations

from datetime import timedelta

from gateway.control.accounts import AccountsClient
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from tests.gateway.admin.place import TODAY
from tests.gateway.commands.terminal import Terminal, cells

DAYS = ("--from", "2027-01-01", "--to", "2027-01-15")


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


async def test_the_pickers_are_gone(penstock: Terminal) -> None:
    penstock.place.accounts = AccountsClient(list)
    assert await penstock.refused("usage") == "no picker runs"


async def test_what_cannot_be_done_is_one_line(penstock: Terminal) -> None:
    assert "cannot group by 'hour'" in await penstock.refused("usage", "--by", "hour")
    assert "exclude each other" in await penstock.refused("usage", "--csv", "--json")
