"""How the API refuses a request: OpenAI's error object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

import orjson
from aiohttp import web

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(Exception):  # noqa: N818 - a request's end, not a program's error
    """Ends a request of the API with an error."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self._code, self._message, self._param = code, message, param
        self._retry_after_s = retry_after_s

    def answer(self) -> web.Response:
        """Its wire form."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self._message,
            "type": kind,
            "param": self._param,
            "code": self._code,
        }
        headers = {} if self._retry_after_s is None else {"Retry-After": str(self._retry_after_s)}
        return web.Response(
            status=self.status,
            body=orjson.dumps({"error": error}),
            content_type="application/json",
            headers=headers,
        )


def invalid(message: str, *, param: str | None = None, code: str = "invalid_value") -> NoReturn:
    """400."""
    raise Refusal(400, code, message, param=param)


def no_such(what: str, given: str) -> NoReturn:
    """404, also for what belongs to another tenant."""
    raise Refusal(404, "not_found", f"No such {what}: {given[:100]!r}.", param="id")


@web.middleware
async def refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answers for what is refused, here or by aiohttp."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return refusal.answer()
    except web.HTTPException as raised:
        code = "path_not_found" if raised.status == 404 else raised.reason.lower().replace(" ", "_")
        shown = request.path[:200]
        return Refusal(raised.status, code, f"{raised.reason}: {request.method} {shown}.").answer()
    except (BrokenPipeError, ConnectionResetError):
        raise
    except OSError as error:
        message = f"The folder of files cannot be used: {error.strerror}."
        return Refusal(503, "storage_unavailable", message, retry_after_s=5).answer()
