"""The registry in Redis 7 or Valkey: for the pickers and supervisors of several machines.

A write is one script call, and so is reading what is new. All keys have one hash tag. Redis must
keep its data: persistence on, no eviction. If it loses data all the same, supervisors write their
copies back (`gateway.tenancy.follower`).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Sequence
from importlib import resources
from typing import Final, cast

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from gateway.tenancy.registry import Conflict, Entry, EntryKind, Page, Position, RegistryUnavailable

_SOURCE: Final = resources.files("gateway.tenancy").joinpath("registry.lua").read_text()
_SHA: Final = hashlib.sha1(_SOURCE.encode(), usedforsecurity=False).hexdigest()


class RedisRegistry:
    """`Registry` in Redis. Use it from one event loop."""

    def __init__(
        self, client: Redis | RedisCluster, *, timeout_s: float = 2.0, prefix: str = "penstock:"
    ) -> None:
        """``client``: for this registry alone and with this timeout, see
        `gateway.limits.redis.client.connect`. ``timeout_s``: of every call. Raises ValueError for a
        ``prefix`` with a brace."""
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"the key prefix {prefix!r} must not contain braces: they tag slots")
        self._client = client
        self._timeout_s = timeout_s
        self._keys = [f"{prefix}{{registry}}:{name}" for name in ("entries", "order", "epoch")]

    async def write(self, entries: Sequence[Entry]) -> None:
        """See `Registry.write`."""
        conflict = cast("bytes", await self._run("write", secrets.token_hex(8), *_words(entries)))
        if conflict:
            kind, _, entry_id = conflict.decode().partition(":")
            raise Conflict(kind, entry_id)

    async def merge(self, entries: Sequence[Entry]) -> None:
        """See `Registry.merge`."""
        await self._run("merge", secrets.token_hex(8), *_words(entries))

    async def changes(self, since: Position, limit: int = 256) -> Page:
        """See `Registry.changes`."""
        answer = await self._run("changes", since.epoch, since.sequence, limit)
        epoch, sequence, restarted, names, values = cast(
            "tuple[bytes, bytes, int, list[bytes], list[bytes | None]]", answer
        )
        pairs = zip(names, values, strict=True)
        return Page(
            entries=tuple(_entry(name, value) for name, value in pairs if value is not None),
            position=Position(epoch.decode(), int(sequence)),
            more=len(names) == limit,
            restarted=bool(restarted),
        )

    async def close(self) -> None:
        """See `Registry.close`."""
        await self._client.aclose()

    async def _run(self, *arguments: str | int | bytes) -> object:
        """Raises RegistryUnavailable."""
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    return await self._ask("EVALSHA", _SHA, *arguments)
                except NoScriptError:
                    return await self._ask("EVAL", _SOURCE, *arguments)
        except TimeoutError as error:
            raise RegistryUnavailable(f"no answer within {self._timeout_s:g} s") from error
        except (RedisError, RedisClusterException, OSError) as error:
            raise RegistryUnavailable(str(error) or type(error).__name__) from error

    async def _ask(self, command: str, script: str, *arguments: str | int | bytes) -> object:
        words = (command, script, len(self._keys), *self._keys, *arguments)
        return await cast("Awaitable[object]", self._client.execute_command(*words))


def _words(entries: Sequence[Entry]) -> list[str | int | bytes]:
    words: list[str | int | bytes] = []
    for entry in entries:
        words += (f"{entry.kind.value}:{entry.id}", entry.version, entry.content)
    return words


def _entry(name: bytes, value: bytes) -> Entry:
    kind, _, entry_id = name.decode().partition(":")
    version, _, content = value.partition(b" ")
    return Entry(EntryKind(kind), entry_id, int(version), content)
