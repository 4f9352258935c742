"""How the admin API reads requests and writes answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Final

import orjson
from aiohttp import web

from gateway.admin.guard import error
from gateway.control.accounts import AccountsUnavailable
from gateway.limits.accounts import UnknownSubject
from gateway.tenancy.problems import (
    AlreadyExists,
    InConfiguration,
    Invalid,
    StaleVersion,
    UnknownKey,
    UnknownTenant,
)
from gateway.tenancy.records import LATEST_S
from gateway.tenancy.registry import RegistryUnavailable

_DIGITS: Final = re.compile("[0-9]{1,18}", re.ASCII)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE: Final = 100
"""Items of a list at once, unless asked otherwise."""
MAX_PAGE: Final = 1_000


class TenantsOff(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The configuration has no tenants."""

    def __init__(self) -> None:
        super().__init__(
            "no tenants are configured: put a section `identity`, `plans` or `tenants` into the"
            " configuration file, for example `identity: {api_keys: true}`"
        )


class BadRequest(Exception):  # noqa: N818 - reads as what it is
    """The request cannot be read; the text says what is expected."""


_STATUS: Final[Mapping[type[Exception], tuple[int, str]]] = {
    BadRequest: (400, "bad_request"),
    TenantsOff: (404, "tenants_off"),
    AlreadyExists: (409, "already_exists"),
    InConfiguration: (409, "in_configuration"),
    StaleVersion: (412, "stale_version"),
    UnknownTenant: (404, "unknown_tenant"),
    UnknownKey: (404, "unknown_key"),
    UnknownSubject: (404, "unknown_tenant"),
    RegistryUnavailable: (503, "registry_unavailable"),
    AccountsUnavailable: (503, "accounts_unavailable"),
}


@web.middleware
async def refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answers for what tenants, keys and accounts refuse."""
    try:
        return await handler(request)
    except Invalid as problem:
        return error(400, "invalid", str(problem), problems=problem.problems)
    except tuple(_STATUS) as problem:
        status, code = _STATUS[type(problem)]
        return error(status, code, str(problem))


def answer(value: object, *, status: int = 200) -> web.Response:
    """A JSON answer that no cache keeps."""
    return web.Response(
        status=status,
        body=orjson.dumps(value, option=orjson.OPT_UTC_Z),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


async def fields(request: web.Request, allowed: Collection[str]) -> dict[str, object]:
    """The keys of the body; {} when it is empty. Raises BadRequest for a key that is not
    allowed."""
    found = await document(request)
    unknown = sorted(found.keys() - set(allowed))
    if unknown:
        raise BadRequest(f"unknown key {unknown[0]!r}; known are {', '.join(allowed)}")
    return found


async def document(request: web.Request) -> dict[str, object]:
    """The body, a JSON object; {} when it is empty. Raises BadRequest."""
    body = await request.read()
    if not body.strip():
        return {}
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise BadRequest(f"the body is no JSON: {problem}") from problem
    if not isinstance(found, dict):
        raise BadRequest("the body must be a JSON object")
    return found


def query(request: web.Request, allowed: Collection[str]) -> Mapping[str, str]:
    """The parameters. Raises BadRequest for one that is not allowed."""
    unknown = sorted(request.query.keys() - set(allowed))
    if unknown:
        raise BadRequest(f"unknown parameter {unknown[0]!r}; known are {', '.join(allowed)}")
    return request.query


def page(request: web.Request, *others: str) -> tuple[str, int]:
    """Cursor and size of the requested page. ``others``: further parameters that are allowed."""
    given = query(request, ("limit", "cursor", *others))
    size = given.get("limit", str(PAGE))
    number = whole(size)
    if number is None or not 1 <= number <= MAX_PAGE:
        raise BadRequest(f"limit must be a whole number from 1 to {MAX_PAGE}, got {size!r}")
    return given.get("cursor", ""), number


def whole(text: str) -> int | None:
    """A whole number in decimal digits; None for any other text, or more than 18 digits."""
    return int(text) if _DIGITS.fullmatch(text) else None


def instant(value: object, key: str) -> float | None:
    """An ISO 8601 time with a zone as seconds since the epoch. Raises BadRequest."""
    if value is None:
        return None
    expected = f'{key} must be a time with its zone, like "2027-01-31T00:00:00Z", or null'
    if not isinstance(value, str):
        raise BadRequest(expected)
    try:
        at = datetime.fromisoformat(value)
    except ValueError as problem:
        raise BadRequest(f"{expected}, got {value!r}") from problem
    if at.tzinfo is None:
        raise BadRequest(f"{expected}, got {value!r}")
    return at.timestamp()


def time_of(seconds: float | None) -> datetime | None:
    """A time as in answers: in UTC, in whole seconds; the last one that can be written for what is
    later."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(min(seconds, LATEST_S), UTC).replace(microsecond=0)
