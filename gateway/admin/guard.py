"""Keeps web pages of other sites from using the admin API of a person's machine; errors as JSON."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from gateway.config.schema.terms import is_ip

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def error(
    status: int, code: str, message: str, *, problems: Sequence[tuple[str, str]] = ()
) -> web.Response:
    """An error in the form of the whole API. ``problems``: keys of the body, each with what is
    wrong."""
    content: dict[str, object] = {"code": code, "message": message}
    if problems:
        content["problems"] = [{"key": key, "problem": problem} for key, problem in problems]
    return web.Response(
        status=status, body=orjson.dumps({"error": content}), content_type="application/json"
    )


@web.middleware
async def errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """aiohttp's own errors (404, 405) as JSON."""
    try:
        return await handler(request)
    except web.HTTPException as raised:
        answer = error(raised.status, raised.reason.lower().replace(" ", "_"), raised.reason)
        if "Allow" in raised.headers:
            answer.headers["Allow"] = raised.headers["Allow"]
        return answer


@web.middleware
async def same_origin(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Refuses what a browser sends for a page of another site: a changing request from another
    origin, and on a loopback address any request under a foreign host name (DNS rebinding)."""
    host = request.headers.get("Host", "")
    if arrived_on_loopback(request) and not _names_this_machine(host):
        return error(
            421, "foreign_host", f"this port answers to localhost and IP addresses, not to {host!r}"
        )
    if request.method not in _SAFE:
        origin = request.headers.get("Origin")
        foreign = origin is not None and _host_of(origin) != host.lower()
        site = request.headers.get("Sec-Fetch-Site", "none")
        if foreign or site not in ("none", "same-origin"):
            return error(403, "cross_origin", "requests from another origin may change nothing")
        # A form or script of another origin can send neither without asking first.
        if request.method != "DELETE" and request.content_type != "application/json":
            return error(415, "not_json", "the body must be application/json")
    return await handler(request)


def arrived_on_loopback(request: web.Request) -> bool:
    """Whether the request was sent to a loopback address."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if not isinstance(name, tuple):
        return False
    return ipaddress.ip_address(str(name[0]).partition("%")[0]).is_loopback


def _host_of(origin: str) -> str | None:
    """None for what is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or is_ip(name)
