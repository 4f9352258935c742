"""What is left and what was used, over the admin API and a picker worker's socket."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta
from urllib.parse import quote

import pytest
from aiohttp import ClientSession

from gateway.control.accounts import AccountsClient
from picker.request.context import bounded
from policies.limits.plan import Subject, charges, takes
from policies.limits.prices import Usage
from tests.gateway.admin.place import NOON, TODAY, place
from tests.gateway.admin.test_tenants import Api


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with place() as (made, url), ClientSession(url) as client:
        yield Api(client, made)


@pytest.fixture
async def unknown() -> AsyncIterator[Api]:
    """Where tenants need not be configured."""
    async with place(UNKNOWN) as (made, url), ClientSession(url) as client:
        yield Api(client, made)


UNKNOWN = """
identity: {api_keys: false, trusted_headers: {}, unknown_tenants: free}
plans: [{name: free, limits: [{count: requests, limit: 5, period: day}]}]
tenants: [{name: acme}]
"""
BOB = Subject("fixed", "ci", "bob", "llama", "main")
ANN = Subject("fixed", "ci", "=ann()", "llama", "main")


async def test_what_is_left_and_when_it_is_back(api: Api) -> None:
    await api.place.use(BOB, Usage(10_000, 5_000), key_id="ci")
    await api.place.use(BOB, Usage(100, 0), key_id="ci", settled=False)
    status, body = await api("GET", "limits?tenant=fixed&key=ci&user=bob")
    assert status == 200
    assert (body["tenant"], body["currency"]) == ("fixed", "USD")
    requests, tokens, cost, concurrency = body["limits"]
    assert requests == {
        "name": "requests-per-minute",
        "of": {},
        "count": "requests",
        "window": "rolling",
        "period": "minute",
        "time_zone": None,
        "idle_s": None,
        "limit": 60,
        "burst": 60,
        "used": 2,
        "remaining": 58,
        "reset_s": 2.0,
        "reset_at": requests["reset_at"],
        "shadow": False,
    }
    at = datetime.fromisoformat(body["at"])
    assert datetime.fromisoformat(requests["reset_at"]) == at + timedelta(seconds=2)
    assert tokens["of"] == {"user": "bob"}
    assert (tokens["limit"], tokens["burst"], tokens["used"]) == (10_000, 20_000, 15_100)
    assert tokens["reset_s"] == 90.6
    assert (cost["count"], cost["window"], cost["period"]) == ("cost", "calendar", "month")
    assert (cost["limit"], cost["used"], cost["remaining"]) == (12.5, 0.0201, 12.4799)
    end_of_month = datetime(2027, 2, 1, tzinfo=NOON.tzinfo)
    assert cost["reset_s"] == (end_of_month - NOON).total_seconds()
    assert concurrency["of"] == {"key": "ci"}
    assert (concurrency["window"], concurrency["period"]) == ("concurrency", None)
    assert (concurrency["limit"], concurrency["remaining"]) == (4, 3)
    assert concurrency["reset_at"] is None


async def test_a_debt_shows_in_what_was_used(api: Api) -> None:
    rolling = {"count": "total_tokens", "limit": 600, "period": "minute"}
    await api("POST", "tenants", {"name": "acme", "limits": [rolling]})
    policy = api.place.directory.policy_with("acme", "")
    assert policy is not None
    meters = policy.meters(Subject("acme", "", "", "llama"))
    await api.place.store.reserve("acme", "r", takes(meters, Usage(100, 50)), 60.0)
    await api.place.store.settle("acme", "r", charges(meters, Usage(1_000, 500)))
    _, body = await api("GET", "limits?tenant=acme")
    (limit,) = body["limits"]
    assert (limit["remaining"], limit["used"], limit["reset_s"]) == (0, 1_500, 150.0)


async def test_a_users_name_is_nothing_but_a_name(api: Api) -> None:
    name = "bob|model=llama|key=ci"
    await api.place.use(Subject("fixed", "ci", name, "llama", "main"), Usage(10, 0), key_id="ci")
    _, body = await api("GET", f"limits?key=ci&user={quote(name)}")
    tokens = body["limits"][1]
    assert (tokens["of"], tokens["used"]) == ({"user": name}, 10)


async def test_a_user_with_a_long_name_is_found_by_it(api: Api) -> None:
    name = "u" * 100
    await api.place.use(Subject("fixed", "ci", bounded(name), "llama", "main"), Usage(10, 0))
    _, body = await api("GET", f"limits?tenant=fixed&user={name}")
    assert body["limits"][1]["used"] == 10


async def test_a_tenant_that_is_not_configured(unknown: Api) -> None:
    await unknown.place.use(Subject("nope"), Usage(10, 5))
    status, body = await unknown("GET", "limits?tenant=nope")
    assert status == 200
    assert body["note"] == (
        "the tenant 'nope' is not configured; the plan free of unknown_tenants would apply"
    )
    assert [(one["name"], one["used"]) for one in body["limits"]] == [("requests-per-day", 1)]
    _, body = await unknown("GET", "limits?tenant=acme")
    assert body["note"] is None
    status, body = await unknown("GET", "limits?tenant=NOT%20A%20NAME")
    assert (status, body["error"]["code"]) == (404, "unknown_tenant")
    _, body = await unknown("GET", "usage?tenant=NOT%20A%20NAME")
    assert (body["rows"], body["note"]) == ([], "there is no tenant 'NOT A NAME'")


async def test_limits_by_something_show_when_it_is_named(api: Api) -> None:
    async def shown(query: str) -> list[str]:
        _, body = await api("GET", f"limits?{query}")
        return [one["name"] for one in body["limits"]]

    of_tenant = ["requests-per-minute", "cost-per-month"]
    assert await shown("tenant=fixed") == of_tenant
    by_key = ["requests-per-minute", "cost-per-month", "concurrency-by-key"]
    assert await shown("key=ci") == by_key


async def test_a_key_has_its_own_limits_and_keeps_counting_when_rotated(api: Api) -> None:
    own = {"name": "own", "count": "requests", "limit": 3, "period": "day"}
    _, first = await api("POST", "keys", {"tenant": "fixed", "limits": [own]})
    line = Subject("fixed", first["id"], "", "llama", "main")
    await api.place.use(line, Usage(1, 1), key_id=first["id"])
    _, second = await api("POST", f"keys/{first['id']}/rotate", {})
    _, body = await api("GET", f"limits?key={second['id']}")
    left = {one["name"]: one["remaining"] for one in body["limits"]}
    assert left["own"] == 2


async def test_whose_limits_cannot_be_told(api: Api) -> None:
    for query, status, code in (
        ("", 400, "bad_request"),
        ("tenant=fixed&team=a", 400, "bad_request"),
        ("tenant=nobody", 404, "unknown_tenant"),
        ("key=nothing", 404, "unknown_key"),
        ("tenant=other&key=ci", 400, "bad_request"),
    ):
        found, body = await api("GET", f"limits?{query}")
        assert (found, body["error"]["code"]) == (status, code)


async def test_usage_is_added_up_as_asked_for(api: Api) -> None:
    await api("POST", "tenants", {"name": "acme"})
    yesterday = TODAY - timedelta(days=1)
    await api.place.use(BOB, Usage(100, 10, cached_tokens=40), key_id="ci")
    await api.place.use(BOB, Usage(100, 10), key_id="ci", day=yesterday)
    await api.place.use(ANN, Usage(50, 5), key_id="ci", day=yesterday)
    await api.place.use(Subject("acme", "", "bob", "qwen"), Usage(1, 1), day=date(2026, 12, 31))
    days = "from=2026-12-01&to=2027-01-15"

    status, body = await api("GET", f"usage?{days}")
    assert status == 200
    assert (body["from"], body["to"], body["by"]) == ("2026-12-01", "2027-01-15", ["tenant"])
    assert body["rows"] == [
        {
            "tenant": "acme",
            "requests": 1,
            "input_tokens": 1,
            "cached_tokens": 0,
            "output_tokens": 1,
            "total_tokens": 2,
            "cost": 0.000003,
        },
        {
            "tenant": "fixed",
            "requests": 3,
            "input_tokens": 250,
            "cached_tokens": 40,
            "output_tokens": 25,
            "total_tokens": 275,
            "cost": 0.0003,
        },
    ]
    assert (body["total"]["requests"], body["total"]["total_tokens"]) == (4, 277)

    async def rows(query: str) -> list[list[object]]:
        _, body = await api("GET", f"usage?{days}&{query}")
        return [[row[name] for name in (*body["by"], "requests")] for row in body["rows"]]

    assert await rows("by=month,tenant") == [["2026-12", "acme", 1], ["2027-01", "fixed", 3]]
    assert await rows("by=day&tenant=fixed") == [["2027-01-14", 2], ["2027-01-15", 1]]
    assert await rows("by=user,model") == [
        ["=ann()", "llama", 1],
        ["bob", "llama", 2],
        ["bob", "qwen", 1],
    ]
    assert await rows("by=key") == [["", 1], ["ci", 3]]
    assert await rows("by=") == [[4]]
    _, body = await api("GET", "usage?from=2027-01-15&to=2027-01-15")
    assert [row["requests"] for row in body["rows"]] == [1]
    _, body = await api("GET", "usage?from=2027-02-01&to=2027-02-02")
    assert (body["rows"], body["total"]["requests"]) == ([], 0)


async def test_a_user_adds_no_line_to_a_csv(api: Api) -> None:
    eve = Subject("fixed", "ci", "eve\nbob\u202e", "llama", "main")
    await api.place.use(eve, Usage(1, 1), key_id="ci")
    async with api.client.get("/api/usage?to=2027-01-15&by=user&format=csv") as answer:
        lines = (await answer.text()).splitlines()
    assert [line.partition(",")[0] for line in lines] == ["user", "eve\ufffdbob\ufffd"]


async def test_usage_as_csv(api: Api) -> None:
    await api.place.use(BOB, Usage(1_000, 1, cached_tokens=40), key_id="ci")
    await api.place.use(ANN, Usage(50, 5), key_id="ci")
    path = "/api/usage?from=2027-01-15&to=2027-01-15&by=day,user"
    async with api.client.get(path, headers={"Accept": "text/csv"}) as answer:
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert "usage-2027-01-15-2027-01-15.csv" in answer.headers["Content-Disposition"]
        text = await answer.text()
    async with api.client.get(f"{path}&format=csv") as answer:
        assert await answer.text() == text
    assert list(csv.reader(text.splitlines())) == [
        [
            *("day", "user", "requests", "input_tokens", "cached_tokens", "output_tokens"),
            *("total_tokens", "cost"),
        ],
        ["2027-01-15", "'=ann()", "1", "50", "0", "5", "55", "0.000060"],
        ["2027-01-15", "bob", "1", "1000", "40", "1", "1001", "0.001002"],
    ]


@pytest.mark.parametrize(
    "query",
    [
        "from=yesterday",
        "from=2027-01-16&to=2027-01-15",
        "from=0001-01-01",
        "by=hour",
        "format=xml",
        "since=2027-01-01",
    ],
)
async def test_usage_that_cannot_be_asked_for(api: Api, query: str) -> None:
    status, body = await api("GET", f"usage?{query}")
    assert (status, body["error"]["code"]) == (400, "bad_request")


async def test_without_a_picker_it_is_503(api: Api) -> None:
    api.place.accounts = AccountsClient(list)
    for path in ("limits?tenant=fixed", "usage"):
        status, body = await api("GET", path)
        assert (status, body["error"]) == (
            503,
            {"code": "accounts_unavailable", "message": "no picker runs"},
        )
