"""Sends lines through our Envoy, as requests of the batch's tenant."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import aiohttp
import orjson

from gateway.batches.lines import Line
from gateway.batches.outcome import Again, Because, Outcome, outcome_of, refused
from gateway.batches.records import BatchRecord, Owner
from gateway.batches.settings import LaneSettings
from picker import names

_MOST_ANSWER_BYTES: Final = 64 << 20
_CONNECT_S: Final = 5.0
_STREAMS: Final = b'"stream"'


class Sender:
    """One session for the life of the process."""

    def __init__(self, settings: LaneSettings) -> None:
        self._key = settings.key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(settings.socket), limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def send(self, record: BatchRecord, line: Line) -> Outcome:
        """What came of one try."""
        if _STREAMS in line.body and _wants_stream(line.body):
            return refused(line.custom_id, "A line of a batch cannot be streamed.", "stream")
        headers = {
            "content-type": "application/json",
            names.BATCH_LINE: self._proof(record.owner),
            names.REQUEST_ID: f"{record.id}-{line.number + 1}",
        }
        try:
            async with self._session.post(
                f"http://batches{record.endpoint}",
                data=line.body,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                body = await _read(answer)
                found = {name.lower(): value for name, value in answer.headers.items()}
                status = answer.status
        except aiohttp.ClientConnectorError:
            return Again(Because.DOWN)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Again(Because.FAILED)
        if body is None:
            return refused(line.custom_id, "The answer was too long for a batch.", "body")
        return outcome_of(line.custom_id, status, found, body)

    async def close(self) -> None:
        """End what is under way."""
        await self._session.close()

    def _proof(self, owner: Owner) -> str:
        """Read by `gateway.tenancy.batch_lines`."""
        parts = (owner.tenant, owner.key, owner.user)
        return ";".join([self._key, *(quote(part, safe="") for part in parts)])


def _wants_stream(body: bytes) -> bool:
    document = orjson.loads(body)
    return isinstance(document, dict) and document.get("stream") is True


async def _read(answer: aiohttp.ClientResponse) -> bytes | None:
    """None: it is too long."""
    parts, size = [], 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > _MOST_ANSWER_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)
