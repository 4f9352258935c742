"""The engines' own tokenizers: POST /tokenize, as vLLM and SGLang have it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp
from msgspec import Struct

from picker.signals.fetch import Upstream

_MOST_ANSWER_BYTES: Final = 32 << 20
OK: Final = 200
UNABLE_S: Final = 600.0
"""A pool whose engine has no such path is asked again after this time."""


class Tokenized(Struct, frozen=True):
    """An answer."""

    status: int
    body: bytearray
    """As far as it was read; empty unless the status is 200."""
    whole: bool
    """False: it goes on beyond what is read."""


class TokenizePath:
    """Asks replicas, between `open` and `close`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def is_open(self) -> bool:
        """Replicas can be asked."""
        return self._session is not None

    def open(self) -> None:
        """Must run in the loop that asks."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "penstock", "Content-Type": "application/json"},
        )

    async def close(self) -> None:
        """Requests under way fail."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(
        self, upstream: Upstream, address: str, body: bytes, *, timeout_s: float
    ) -> Tokenized:
        """Raises TimeoutError, aiohttp.ClientError and OSError."""
        if self._session is None:
            raise ConnectionError("closed")
        scheme = "https" if upstream.tls is not None else "http"
        async with self._session.post(
            f"{scheme}://{address}/tokenize",
            data=body,
            headers=upstream.headers,
            ssl=upstream.tls if upstream.tls is not None else True,
            server_hostname=upstream.server_name,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as answer:
            said = bytearray()
            if answer.status != OK:
                return Tokenized(answer.status, said, whole=False)
            async for chunk in answer.content.iter_any():
                said += chunk
                if len(said) > _MOST_ANSWER_BYTES:
                    answer.close()
                    return Tokenized(answer.status, said, whole=False)
            return Tokenized(answer.status, said, whole=True)


class Askable:
    """Pools whose replicas are asked, and when those are again that could not answer."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._upstreams: Mapping[str, Upstream] = {}
        self._unable_until_s: dict[str, float] = {}

    def use(self, upstreams: Mapping[str, Upstream]) -> None:
        """Ask the replicas of these pools from now on, by name."""
        self._upstreams = upstreams
        self._unable_until_s = {
            pool: until_s for pool, until_s in self._unable_until_s.items() if pool in upstreams
        }

    def upstream(self, pool: str) -> Upstream | None:
        """How to reach the pool's replicas; None: it is not to be asked, or not now."""
        if self._unable_until_s.get(pool, 0.0) > self._now_s():
            return None
        return self._upstreams.get(pool)

    def rest(self, pool: str, for_s: float) -> None:
        """Do not ask the pool for so long."""
        self._unable_until_s[pool] = self._now_s() + for_s
