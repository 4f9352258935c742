"""What replicas generated and what a gateway charged, as they report it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import aiohttp
import orjson

from loadtests.lab.limits.history import Tokens
from loadtests.lab.source import LabError

_GENERATED: Final = "/sim/generated"
_USAGE: Final = "/api/usage"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0)
_POLL_S: Final = 0.25


async def generated(replicas: Sequence[str]) -> dict[str, Tokens]:
    """By request id, of simulated replicas (``http://host:port``); of a request that was tried
    again, the attempt that got furthest. Raises LabError."""
    found: dict[str, Tokens] = {}
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        for replica in replicas:
            document = await _get(session, replica.rstrip("/") + _GENERATED)
            for entry in _list(document, "requests"):
                name = str(entry.get("request_id", ""))
                before = found.get(name, Tokens(0, 0))
                found[name] = Tokens(
                    max(before.input, _whole(entry.get("prompt_tokens"))),
                    max(before.output, _whole(entry.get("generated_tokens"))),
                )
    return found


async def charged(admin: str, headers: dict[str, str], tenant: str) -> int:
    """Tokens in the usage of a tenant, of all when "", by Penstock's admin API. Raises LabError."""
    query = f"?by=tenant&tenant={tenant}" if tenant else "?by=tenant"
    async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as session:
        document = await _get(session, admin.rstrip("/") + _USAGE + query)
    return sum(
        _whole(row.get("input_tokens")) + _whole(row.get("output_tokens"))
        for row in _list(document, "rows")
        if not tenant or row.get("tenant") == tenant
    )


async def charged_at_rest(
    admin: str, headers: dict[str, str], tenant: str, *, quiet_s: float, within_s: float = 20.0
) -> int:
    """The same, when it has not grown for a time."""
    pause_s = min(_POLL_S, quiet_s)
    last, quiet = await charged(admin, headers, tenant), 0.0
    for _ in range(int(within_s / _POLL_S)):
        if quiet >= quiet_s:
            break
        await asyncio.sleep(pause_s)
        now = await charged(admin, headers, tenant)
        last, quiet = now, quiet + pause_s if now == last else 0.0
    return last


async def _get(session: aiohttp.ClientSession, url: str) -> object:
    try:
        async with session.get(url) as answer:
            text = await answer.read()
            if answer.status != 200:
                said = text[:200].decode(errors="replace")
                raise LabError(f"{url} answers {answer.status}: {said}")
            return orjson.loads(text)
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
        raise LabError(f"{url}: {str(error) or type(error).__name__}") from error


def _list(document: object, key: str) -> list[dict[str, object]]:
    entries = document.get(key) if isinstance(document, dict) else None
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
