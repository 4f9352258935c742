"""How a client shows which of its requests belong together."""

from __future__ import annotations

import base64
from typing import Final

import xxhash

from picker import names
from picker.request.context import RequestContext

_MAX_SESSION_CHARS: Final = 64


def session_token(address: str) -> str:
    """What a client shows to come back to ``address``."""
    return base64.b64encode(address.encode()).decode()


def session_key(context: RequestContext) -> str:
    """What binds the request to others of its session, "" when nothing does. Clients choose ids
    as long as they like: a long one is kept as its digest."""
    given = context.head.headers.get(names.SESSION_ID)
    if not given and context.fields is not None:
        given = context.fields.session_id
    if not given or len(given) <= _MAX_SESSION_CHARS:
        return given or ""
    return xxhash.xxh3_128_hexdigest(given.encode())
