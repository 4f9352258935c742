"""HTTP GET of a replica's small pages: bounded in time and size, one session for all."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import aiohttp
from yarl import URL


class Failure(StrEnum):
    """Why a page could not be read."""

    REFUSED = "refused"
    """Nobody listens, or no route."""
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    NOT_THERE = "not_there"
    """A status that says that the page is elsewhere or nowhere: redirect, 404, 405."""
    DENIED = "denied"
    """A status that asks for a key: 401, 403."""
    STATUS = "status"
    """Another HTTP status than 200."""
    TOO_LARGE = "too_large"
    BAD_BODY = "bad_body"
    """Read, but not what it should be."""
    LOCAL = "local"
    """This machine's own limit (open files, ports, memory): says nothing about the replica."""


_LOCAL_ERRORS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
_PATIENCE: Final = 3.0
_MOST_PATIENT_S: Final = 3.0
_BROKEN: Final = 500
_NOT_IMPLEMENTED: Final = 501
_KINDS: Final = {
    **dict.fromkeys((301, 302, 303, 307, 308, 404, 405, 410, _NOT_IMPLEMENTED), Failure.NOT_THERE),
    **dict.fromkeys((401, 403, 407), Failure.DENIED),
}
"""By HTTP status; other ones are `Failure.STATUS`."""


class FetchError(Exception):
    """A page could not be read; the text says why, for people."""

    def __init__(self, kind: Failure, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Upstream:
    """How the replicas of a pool are reached."""

    tls: ssl.SSLContext | None = None
    """None: plain HTTP."""
    server_name: str | None = None
    """Name for SNI and the certificate check; None: the address."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with every request, the host among them. May hold secrets."""


class Fetcher:
    """GETs over kept connections, between `open` and `close`."""

    def __init__(self, *, keep_alive_s: float) -> None:
        self._keep_alive_s = keep_alive_s
        self._session: aiohttp.ClientSession | None = None
        self.limit(timeout_s=1.0, max_body_bytes=8 << 20)

    def limit(self, *, timeout_s: float, max_body_bytes: int) -> None:
        """Bound what is fetched from now on. Pages that are asked for with patience have longer."""
        patient_s = max(timeout_s, min(_PATIENCE * timeout_s, _MOST_PATIENT_S))
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._patient = aiohttp.ClientTimeout(total=patient_s)
        self._max_body_bytes = max_body_bytes

    def open(self) -> None:
        """Must run in the loop that fetches."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keep_alive_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "penstock", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Closes all connections; fetches under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, url: URL, upstream: Upstream, *, patient: bool = False) -> bytes:
        """The body of a 200; raises FetchError. Redirects are not followed."""
        async with self._answer(url, upstream, patient=patient) as response:
            if response.status != 200:
                raise _unwanted(url, response.status)
            return await self._body(url, response)

    async def probe(self, url: URL, upstream: Upstream) -> None:
        """Return when the replica answers as one that lives, which a busy one may do late; raises
        FetchError. A page that is not there, or not for us, is the answer of a server that lives
        too."""
        async with self._answer(url, upstream, patient=True) as response:
            if response.status >= _BROKEN and response.status != _NOT_IMPLEMENTED:
                raise _unwanted(url, response.status)

    @asynccontextmanager
    async def _answer(
        self, url: URL, upstream: Upstream, *, patient: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the fetcher is not open")
        timeout = self._patient if patient else self._timeout
        try:
            async with self._session.get(
                url,
                headers=upstream.headers,
                ssl=upstream.tls if upstream.tls is not None else True,
                server_hostname=upstream.server_name,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                yield response
        except TimeoutError as error:
            raise FetchError(
                Failure.TIMEOUT, f"GET {url.path}: no answer within {timeout.total:g} s"
            ) from error
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise FetchError(Failure.DISCONNECTED, f"GET {url.path}: TLS: {error}") from error
        except aiohttp.ClientConnectorError as error:
            local = error.os_error.errno in _LOCAL_ERRORS
            kind = Failure.LOCAL if local else Failure.REFUSED
            number = error.os_error.errno
            why = os.strerror(number) if number and number > 0 else str(error.os_error)
            hint = "" if local else "; is it running, and is this its port?"
            raise FetchError(kind, f"cannot connect: {why[:160]}{hint}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            words = str(error) or type(error).__name__
            raise FetchError(Failure.DISCONNECTED, f"GET {url.path}: {words[:200]}") from error

    async def _body(self, url: URL, response: aiohttp.ClientResponse) -> bytes:
        chunks, size_bytes = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > self._max_body_bytes:
                response.close()
                raise FetchError(
                    Failure.TOO_LARGE,
                    f"GET {url.path}: more than {self._max_body_bytes} bytes",
                )
        return b"".join(chunks)


def _unwanted(url: URL, status: int) -> FetchError:
    kind = _KINDS.get(status, Failure.STATUS)
    reason = f"GET {url.path}: status {status}"
    if kind is Failure.DENIED:
        reason += ", it asks for a key"
    return FetchError(kind, reason)
