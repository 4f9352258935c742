"""Step: the body without the content codings that it was sent with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from picker.bodies.encodings import TAKEN, NotDecodable, NotTaken, TooLong, codings, decode
from picker.pipeline.parse import too_large
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection

_HEADER: Final = "content-encoding"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Decode:
    """415 for a coding that is not known here, 413 for more than the limit when decoded. In a
    thread, for little may become much. Replicas get the body decoded; a byte order mark ahead of
    JSON is left out."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes

    def __call__(self, context: RequestContext) -> Awaitable[None] | None:
        header = context.head.headers.get(_HEADER)
        if header is not None:
            return self._decode(context, header)
        _replace(context, context.body)
        return None

    async def _decode(self, context: RequestContext, header: str) -> None:
        context.remove_headers.append(_HEADER)
        _replace(context, await self._decoded(context.body, header))

    async def _decoded(self, body: bytes, header: str) -> bytes:
        try:
            applied = codings(header)
            if not applied or not body:
                return body
            if len(body) > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
            return await asyncio.to_thread(decode, body, applied, self._max_body_bytes)
        except NotTaken as error:
            raise Rejection(
                Reason.UNSUPPORTED_ENCODING,
                f"The content-encoding {str(error)[:64]!r} is not supported; {TAKEN} are.",
                headers=(("accept-encoding", TAKEN),),
            ) from error
        except NotDecodable as error:
            raise Rejection(
                Reason.INVALID_REQUEST, f"The request body cannot be decoded: {error}."
            ) from error
        except TooLong as error:
            raise too_large(self._max_body_bytes, "decoded ") from error


def _replace(context: RequestContext, body: bytes) -> None:
    if body.startswith(_BYTE_ORDER_MARK) and context.is_json:
        body = body[len(_BYTE_ORDER_MARK) :]
    if body is not context.body:
        context.body, context.decoded = body, True
