"""Who may use the admin API: callers with the token; without a token, callers on this machine."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway.admin.guard import arrived_on_loopback, error

log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN: Final = frozenset({"/healthz", "/readyz"})
"""Load balancers ask these; they show nothing that is secret."""
_CHALLENGES: Final = ('Bearer realm="penstock"', 'Basic realm="penstock", charset="UTF-8"')


class Access:
    """Checks every request. ``token`` is called each time, so that a new token applies at once."""

    def __init__(self, token: Callable[[], str | None]) -> None:
        self._token = token
        self.refused = 0
        """Requests without the right token; only grows."""

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """401 without the token; 403 for another machine where no token is set."""
        if request.path in _OPEN:
            return await handler(request)
        token = self._token()
        if token is None:
            if arrived_on_loopback(request):
                return await handler(request)
            return self._refuse(request, error(403, "no_token", "set admin.token to allow this"))
        if _same(_offered(request.headers.get("Authorization", "")), token):
            return await handler(request)
        answer = error(
            401,
            "unauthorized",
            "the admin API needs its token: Authorization: Bearer TOKEN, or the token as the"
            " password of HTTP Basic",
        )
        for challenge in _CHALLENGES:
            answer.headers.add("WWW-Authenticate", challenge)
        return self._refuse(request, answer)

    def _refuse(self, request: web.Request, answer: web.Response) -> web.Response:
        self.refused += 1
        if "Authorization" in request.headers or answer.status != 401:  # a browser asks without
            log.warning(
                "the admin API refused %s %s from %s", request.method, request.path, request.remote
            )
        return answer


def _offered(authorization: str) -> str:
    scheme, _, given = authorization.partition(" ")
    given = given.strip()
    if scheme.lower() == "bearer":
        return given
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _same(offered: str, token: str) -> bool:
    """In constant time, whatever their lengths."""
    digests = [
        hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        for text in (offered, token)
    ]
    return hmac.compare_digest(*digests)
