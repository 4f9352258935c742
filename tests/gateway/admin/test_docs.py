"""docs/admin.md names every endpoint of the admin API and every error."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from gateway.admin import access, answers, api, decisions, guard
from tests.gateway.admin.place import Place, Status, place

DOCS = (Path(__file__).parents[3] / "docs" / "admin.md").read_text()


@pytest.fixture
async def served() -> AsyncIterator[tuple[Place, ClientSession]]:
    async with place() as (made, url), ClientSession(url) as client:
        yield made, client


async def test_every_endpoint_is_documented_and_the_other_way_round(
    served: tuple[Place, ClientSession],
) -> None:
    made, _ = served
    app = api.application(Status(), made, made.access, made.socket.parent)
    there = {
        f"{route.method} {route.resource.canonical}".replace("{name}", "NAME").replace("{id}", "ID")
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert set(re.findall(r"^\| `((?:GET|POST|PATCH|DELETE) \S+)`", DOCS, re.MULTILINE)) == there


def test_every_error_code_is_documented() -> None:
    sources = "".join(
        inspect.getsource(module) for module in (access, answers, api, decisions, guard)
    )
    codes = set(re.findall(r'\b[45]\d\d, "(\w+)"', sources))
    assert {"invalid", "bad_request", "foreign_host", "no_token"} <= codes
    assert codes <= set(re.findall(r"`(\w+)`", DOCS.partition("## Errors")[2]))


async def test_what_the_server_itself_refuses(served: tuple[Place, ClientSession]) -> None:
    _, client = served
    for method, path, body, status, code in (
        ("GET", "/api/nothing", None, 404, "not_found"),
        ("PATCH", "/api/drain", {}, 405, "method_not_allowed"),
        ("POST", "/api/tenants", {"name": "x" * 70_000}, 413, "request_entity_too_large"),
    ):
        async with client.request(method, path, json=body) as answer:
            found = (await answer.json())["error"]["code"]
        assert (answer.status, found) == (status, code)
        assert f"| {status} |" in DOCS
        assert f"`{code}`" in DOCS
