"""Token ids of prompts by the engines' own tokenizers: POST /tokenize, as vLLM has it.

The engine applies its chat template and its tokenizer, whatever they are: what it says is what it
will look for in its prefix cache.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import aiohttp
import msgspec

from picker.prompt.token_blocks import token_bytes
from picker.signals.fetch import Upstream

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 5.0
_MOST_AT_ONCE: Final = 32
_MOST_BODY_BYTES: Final = 8 << 20
_MOST_ANSWER_BYTES: Final = 32 << 20
_LONG_ANSWER_BYTES: Final = 1 << 16
_UNABLE_S: Final = 600.0
"""A pool whose engine has no such path is asked again after this time."""
_AILING_S: Final = 5.0
"""A replica that does not answer is asked again after this time."""
_OK: Final = 200
_UNABLE: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 410, 501})
"""There is no such path, or not for us. Other refusals are of this prompt, or of this moment."""


class _Answer(msgspec.Struct):
    tokens: list[int]


_decode: Final = msgspec.json.Decoder(_Answer).decode


class EngineTokenIds:
    """`picker.seams.engine_tokens.EngineTokens` over HTTP, between `open` and `close`."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._upstreams: dict[str, Upstream] = {}
        self._unable_until_s: dict[str, float] = {}
        self._ailing_until_s: dict[tuple[str, str], float] = {}
        """By pool and address."""
        self._session: aiohttp.ClientSession | None = None
        self._asking = 0

    def open(self) -> None:
        """Must run in the loop that asks."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "penstock", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        )

    async def close(self) -> None:
        """Requests under way fail."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def use(self, upstreams: dict[str, Upstream]) -> None:
        """Ask the replicas of these pools from now on, by name."""
        self._upstreams = upstreams
        self._unable_until_s = {
            pool: until_s for pool, until_s in self._unable_until_s.items() if pool in upstreams
        }

    def can_tokenize(self, pool: str) -> bool:
        """See `EngineTokens`."""
        return (
            self._session is not None
            and pool in self._upstreams
            and self._asking < _MOST_AT_ONCE
            and self._unable_until_s.get(pool, 0.0) <= self._now_s()
        )

    async def ids(self, pool: str, address: str, body: bytes) -> bytes | None:
        """See `EngineTokens`."""
        if not self.can_tokenize(pool) or len(body) > _MOST_BODY_BYTES:
            return None
        if self._ailing_until_s.get((pool, address), 0.0) > self._now_s():
            return None
        self._asking += 1
        try:
            return await self._ask(pool, address, body)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            log.info("pool %s: %s tells no tokens: %r", pool, address, error)
            self._rest(pool, address)
            return None
        finally:
            self._asking -= 1

    def _rest(self, pool: str, address: str) -> None:
        now_s = self._now_s()
        ailing = {one: until_s for one, until_s in self._ailing_until_s.items() if until_s > now_s}
        ailing[pool, address] = now_s + _AILING_S
        self._ailing_until_s = ailing

    async def _ask(self, pool: str, address: str, body: bytes) -> bytes | None:
        session, upstream = self._session, self._upstreams[pool]
        assert session is not None
        scheme = "https" if upstream.tls is not None else "http"
        async with session.post(
            f"{scheme}://{address}/tokenize",
            data=body,
            headers=upstream.headers,
            ssl=upstream.tls if upstream.tls is not None else True,
            server_hostname=upstream.server_name,
            allow_redirects=False,
        ) as answer:
            if answer.status in _UNABLE:
                self._unable_until_s[pool] = self._now_s() + _UNABLE_S
                log.info("pool %s: /tokenize answers %d", pool, answer.status)
            if answer.status != _OK:
                return None
            said = bytearray()
            async for chunk in answer.content.iter_any():
                said += chunk
                if len(said) > _MOST_ANSWER_BYTES:
                    answer.close()
                    return None
        if len(said) > _LONG_ANSWER_BYTES:
            return await asyncio.to_thread(_read_ids, said)
        return _read_ids(said)


def _read_ids(answer: bytearray) -> bytes:
    """Raises ValueError for what is no list of token ids."""
    try:
        return token_bytes(_decode(answer).tokens)
    except (msgspec.DecodeError, OverflowError) as error:
        raise ValueError(str(error)) from error
