"""The HTTP server in front of replicas: routes, errors, start and stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from loadtests.sim.replica import Replica
from loadtests.sim.surface import (
    chat,
    completions,
    messages,
    models,
    pooling,
    responses,
    tokenizing,
)
from loadtests.sim.surface.body import ApiError
from loadtests.sim.surface.reply import json_bytes

logger = logging.getLogger(__name__)

Endpoint = Callable[[Replica, web.BaseRequest], Awaitable[web.StreamResponse]]

_MAX_BODY_BYTES = 256 * 1024 * 1024
_KEEPALIVE_S = 75.0
_CUT_OFF_S = 0.01  # aiohttp takes 0 for no limit

_ROUTES: Mapping[str, tuple[str, Endpoint]] = {
    "/health": ("GET", models.health),
    "/ping": ("GET", models.health),
    "/version": ("GET", models.version),
    "/metrics": ("GET", models.metrics),
    "/load": ("GET", models.load),
    "/v1/models": ("GET", models.list_models),
    "/v1/load_lora_adapter": ("POST", models.load_lora_adapter),
    "/v1/unload_lora_adapter": ("POST", models.unload_lora_adapter),
    "/reset_prefix_cache": ("POST", models.reset_prefix_cache),
    "/v1/chat/completions": ("POST", chat.chat_completions),
    "/v1/completions": ("POST", completions.completions),
    "/v1/responses": ("POST", responses.responses),
    "/v1/messages": ("POST", messages.messages),
    "/v1/messages/count_tokens": ("POST", messages.count_tokens),
    "/v1/embeddings": ("POST", pooling.embeddings),
    "/rerank": ("POST", pooling.rerank),
    "/v1/rerank": ("POST", pooling.rerank),
    "/v2/rerank": ("POST", pooling.rerank),
    "/score": ("POST", pooling.score),
    "/v1/score": ("POST", pooling.score),
    "/tokenize": ("POST", tokenizing.tokenize),
    "/detokenize": ("POST", tokenizing.detokenize),
}


class ReplicaServer:
    """One replica on one port. Start it on a running event loop."""

    def __init__(self, replica: Replica, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.replica = replica
        self.host = host
        self.port = port
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """ip:port, with the real port once started."""
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen. Port 0 takes a free one. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._web = web.Server(
            self._handle,
            request_factory=_make_request,
            handler_cancellation=True,
            keepalive_timeout=_KEEPALIVE_S,
            access_log=None,
        )
        self._listener = await loop.create_server(self._web, self.host, self.port, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self, drain_s: float = 0.0) -> None:
        """Accept nothing more, let what runs finish for up to drain_s, then cut it off."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._web is not None:
            self._web.pre_shutdown()
        if self._requests:
            try:
                await asyncio.wait_for(self._idle.wait(), drain_s)
            except TimeoutError:
                logger.info("%s: %d requests cut off", self.address, self._requests)
        if self._web is not None:
            await self._web.shutdown(_CUT_OFF_S)
            self._web = None
        await self.replica.engine.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._requests += 1
        self._idle.clear()
        try:
            return await self._dispatch(request)
        except ApiError as error:
            if error.kind == error.status.phrase and error.status is not HTTPStatus.BAD_REQUEST:
                body = error.plain()
            elif request.path.startswith("/v1/messages"):
                body = error.anthropic()
            else:
                body = error.openai()
            return json_bytes(body, request, error.status)
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        method, endpoint = _ROUTES.get(request.path, (None, None))
        if endpoint is None:
            raise _plain_error(HTTPStatus.NOT_FOUND)
        if request.method != method and not (method == "GET" and request.method == "HEAD"):
            raise _plain_error(HTTPStatus.METHOD_NOT_ALLOWED)
        return await endpoint(self.replica, request)


def _plain_error(status: HTTPStatus) -> ApiError:
    """What vLLM answers where no endpoint of its own does."""
    return ApiError(status.phrase, status=status, kind=status.phrase)


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    return web.BaseRequest(
        message,
        payload,
        protocol,
        writer,
        task,
        asyncio.get_running_loop(),
        client_max_size=_MAX_BODY_BYTES,
    )
