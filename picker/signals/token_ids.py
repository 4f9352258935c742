"""Token ids of prompts by the engines' own tokenizers.

The engine applies its chat template and its tokenizer, whatever they are: what it says is what it
will look for in its prefix cache.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp
import msgspec

from picker.prompt.token_blocks import token_bytes
from picker.signals.fetch import Upstream
from picker.signals.tokenize_path import UNABLE_S, Askable, TokenizePath

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 5.0
_MOST_AT_ONCE: Final = 32
_MOST_BODY_BYTES: Final = 8 << 20
_LONG_ANSWER_BYTES: Final = 1 << 16
_AILING_S: Final = 5.0
"""A replica that does not answer is asked again after this time."""
_UNABLE: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 410, 501})
"""There is no such path, or not for us. Other refusals are of this prompt, or of this moment."""


class _Answer(msgspec.Struct):
    tokens: list[int]


_decode: Final = msgspec.json.Decoder(_Answer).decode


class EngineTokenIds:
    """`picker.seams.engine_tokens.EngineTokens` over HTTP."""

    def __init__(self, path: TokenizePath, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._path, self._pools, self._now_s = path, Askable(now_s), now_s
        self._ailing_until_s: dict[tuple[str, str], float] = {}
        """By pool and address."""
        self._asking = 0

    def use(self, upstreams: Mapping[str, Upstream]) -> None:
        """Ask the replicas of these pools from now on, by name."""
        self._pools.use(upstreams)

    def can_tokenize(self, pool: str) -> bool:
        """See `EngineTokens`."""
        free = self._path.is_open and self._asking < _MOST_AT_ONCE
        return free and self._pools.upstream(pool) is not None

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
        upstream = self._pools.upstream(pool)
        assert upstream is not None
        answer = await self._path.ask(upstream, address, body, timeout_s=_TIMEOUT_S)
        if answer.status in _UNABLE:
            self._pools.rest(pool, UNABLE_S)
            log.info("pool %s: /tokenize answers %d", pool, answer.status)
        if not answer.whole:
            return None
        said = answer.body
        if len(said) > _LONG_ANSWER_BYTES:
            return await asyncio.to_thread(_read_ids, said)
        return _read_ids(said)


def _read_ids(answer: bytearray) -> bytes:
    """Raises ValueError for what is no list of token ids."""
    try:
        return token_bytes(_decode(answer).tokens)
    except (msgspec.DecodeError, OverflowError) as error:
        raise ValueError(str(error)) from error
