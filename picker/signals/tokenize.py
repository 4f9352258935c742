"""Exact counts by the engines' own tokenizers."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import aiohttp
import orjson

from picker.signals.fetch import Upstream
from picker.signals.tokenize_path import OK, UNABLE_S, Askable, TokenizePath

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 2.0
_AT_ONCE: Final = 4
_MOST_WAITING: Final = 64
_MOST_TEXT_BYTES: Final = 4 << 20
_MOST_PARSED_BYTES: Final = 1 << 18
_LONG_TEXT_BYTES: Final = 1 << 18
_COUNT: Final = re.compile(rb'"count"\s*:\s*(?:(\d{1,9})\s*[,}]|\[\s*(\d{1,9})\s*\])')
_AILING_S: Final = 10.0
_SERVER_ERROR: Final = 500
_NOT_IMPLEMENTED: Final = 501
_OF_THE_TEXT: Final = frozenset({400, 413, 422, 429})
"""Refusals of this text: others may well be counted."""


class EngineTokenizer:
    """`picker.seams.engine_counts.EngineCounts` over HTTP. A few requests at once; who would have
    to wait long gets no count."""

    def __init__(self, path: TokenizePath, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._path, self._pools = path, Askable(now_s)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    def use(self, upstreams: Mapping[str, Upstream]) -> None:
        """Ask the replicas of these pools from now on, by name."""
        self._pools.use(upstreams)

    def can_count(self, pool: str) -> bool:
        """See `EngineCounts`."""
        return self._path.is_open and self._pools.upstream(pool) is not None

    async def tokens(
        self, pool: str, address: str, model: str, texts: Sequence[bytes]
    ) -> int | None:
        """See `EngineCounts`."""
        if not self.can_count(pool) or self._waiting >= _MOST_WAITING:
            return None
        if sum(map(len, texts)) > _MOST_TEXT_BYTES:
            return None
        self._waiting += 1
        asked_s, loop = math.inf, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_S), self._places:
                asked_s = loop.time()
                counts = [await self._ask(pool, address, model, text) for text in texts]
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            # A long text, or those that were ahead, may be all that takes so long.
            had_time = loop.time() - asked_s > TIMEOUT_S / 2
            is_long = sum(map(len, texts)) > _LONG_TEXT_BYTES
            if not isinstance(error, TimeoutError) or (had_time and not is_long):
                self._pools.rest(pool, _AILING_S)
            log.info("pool %s: %s counts no tokens: %r", pool, address, error)
            return None
        finally:
            self._waiting -= 1
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    async def _ask(self, pool: str, address: str, model: str, text: bytes) -> int | None:
        upstream = self._pools.upstream(pool)
        if upstream is None:
            return None
        long = len(text) > _LONG_TEXT_BYTES
        body = await asyncio.to_thread(_body, model, text) if long else _body(model, text)
        answer = await self._path.ask(upstream, address, body, timeout_s=TIMEOUT_S)
        if answer.status >= _SERVER_ERROR and answer.status != _NOT_IMPLEMENTED:
            raise ValueError(f"status {answer.status}")
        if answer.status in _OF_THE_TEXT:
            return None
        count = read_count(bytes(answer.body)) if answer.status == OK else None
        if count is None:
            self._pools.rest(pool, UNABLE_S)
            log.info("pool %s: its engine has no /tokenize", pool)
        return count


def _body(model: str, text: bytes) -> bytes:
    return orjson.dumps({"model": model, "prompt": text.decode("utf-8", "replace")})


def read_count(answer: bytes) -> int | None:
    """Tokens that an answer of /tokenize tells: ``count``, else the length of ``tokens``. None for
    any other answer. A long one is not parsed: the list of its tokens is."""
    at = answer.find(b'"count"')
    told = _COUNT.match(answer, at) if at >= 0 else None
    if told is not None:
        return int(told.group(1) or told.group(2))
    if len(answer) > _MOST_PARSED_BYTES:
        return None
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    tokens = document.get("tokens") if isinstance(document, dict) else None
    return len(tokens) if isinstance(tokens, list) and "count" not in document else None
