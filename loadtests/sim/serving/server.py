"""The HTTP server in front of replicas: routes, errors, start and stop."""

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus

from aiohttp import web

from loadtests.sim.serving.engine import EngineDeadError
from loadtests.sim.serving.faults import CutError, RefusalError
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface import (
    chat,
    completions,
    faults,
    generated,
    messages,
    models,
    pooling,
    responses,
    sleep,
    tokenizing,
)
from loadtests.sim.serving.surface.body import ApiError
from loadtests.sim.serving.surface.reply import Reply, json_reply

logger = logging.getLogger(__name__)

Handler = Callable[[SimulatedReplica, web.BaseRequest], Awaitable[Reply]]

_MAX_BODY_BYTES = 256 * 1024 * 1024
_KEEPALIVE_S = 75.0
_CUT_OFF_S = 0.01  # to aiohttp, 0 means no limit
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""Value of SO_LINGER: no waiting, a reset."""

_FAULTS = "/sim/faults"
_GENERATED = "/sim/generated"
_GENERATING: Mapping[str, Handler] = {
    "/v1/chat/completions": chat.chat_completions,
    "/v1/completions": completions.completions,
    "/v1/responses": responses.responses,
    "/v1/messages": messages.messages,
    "/v1/embeddings": pooling.embeddings,
    "/rerank": pooling.rerank,
    "/v1/rerank": pooling.rerank,
    "/v2/rerank": pooling.rerank,
    "/score": pooling.score,
    "/v1/score": pooling.score,
}
"""By path, for POST. These use the engine."""
_ROUTES: Mapping[str, Mapping[str, Handler]] = {
    **{path: {"POST": endpoint} for path, endpoint in _GENERATING.items()},
    "/health": {"GET": models.health},
    "/ping": {"GET": models.health},
    "/version": {"GET": models.version},
    "/metrics": {"GET": models.metrics},
    "/load": {"GET": models.load},
    "/v1/models": {"GET": models.list_models},
    "/v1/load_lora_adapter": {"POST": models.load_lora_adapter},
    "/v1/unload_lora_adapter": {"POST": models.unload_lora_adapter},
    "/reset_prefix_cache": {"POST": models.reset_prefix_cache},
    "/sleep": {"POST": sleep.sleep},
    "/wake_up": {"POST": sleep.wake_up},
    "/is_sleeping": {"GET": sleep.is_sleeping},
    "/pause": {"POST": sleep.pause},
    "/resume": {"POST": sleep.resume},
    "/is_paused": {"GET": sleep.is_paused},
    "/v1/messages/count_tokens": {"POST": messages.count_tokens},
    "/tokenize": {"POST": tokenizing.tokenize},
    "/detokenize": {"POST": tokenizing.detokenize},
    _FAULTS: {
        "GET": faults.list_faults,
        "POST": faults.give_faults,
        "DELETE": faults.take_back_faults,
    },
    _GENERATED: {
        "GET": generated.list_generated,
        "DELETE": generated.forget_generated,
    },
}
_PLAIN = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_BUSY = (
    "The engine is currently busy and cannot accept new requests. "
    "Please try again later or on a different instance."
)
_REFUSALS: Mapping[HTTPStatus, tuple[str, str]] = {
    HTTPStatus.INTERNAL_SERVER_ERROR: ("InternalServerError", _DEAD),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Service Unavailable", _BUSY),
}
"""vLLM's type and message; a status that it never sends has its own name as both."""


class ReplicaServer:
    """One replica on one port. Start it on a running event loop."""

    def __init__(
        self, replica: SimulatedReplica, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
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
            request_factory=partial(web.BaseRequest, loop=loop, client_max_size=_MAX_BODY_BYTES),
            handler_cancellation=True,
            keepalive_timeout=_KEEPALIVE_S,
            access_log=None,
        )
        self._listener = await loop.create_server(self._web, self.host, self.port, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.replica.faults.start()

    async def stop(self, drain_s: float = 0.0) -> None:
        """Accept nothing more, let running requests finish for up to drain_s, then cut them off."""
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
        self.replica.faults.clear()
        await self.replica.engine.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._requests += 1
        self._idle.clear()
        try:
            return await self._answer(request)
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._dispatch(request)
        except ApiError as error:
            return _error_reply(error, request)
        except RefusalError as refusal:
            return _refusal_reply(refusal, request)
        except CutError:
            _reset(request)
            return web.Response()  # nobody gets it
        except EngineDeadError:
            return _failed(request)
        except ConnectionError:
            return web.Response()  # nobody gets it: the client left
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return _failed(request)

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path not in (_FAULTS, _GENERATED):
            await self.replica.faults.before_request(generating=path in _GENERATING)
        endpoints = _ROUTES.get(path)
        if endpoints is None:
            raise _plain_error(HTTPStatus.NOT_FOUND)
        method = "GET" if request.method == "HEAD" else request.method
        endpoint = endpoints.get(method)
        if endpoint is None:
            response = _error_reply(_plain_error(HTTPStatus.METHOD_NOT_ALLOWED), request)
            response.headers["Allow"] = ", ".join(endpoints)
            return response
        reply = await endpoint(self.replica, request)
        return reply if isinstance(reply, web.StreamResponse) else json_reply(reply, request)


def _plain_error(status: HTTPStatus) -> ApiError:
    """vLLM's answer when it has no endpoint for the request."""
    return ApiError(status.phrase, status=status, kind=status.phrase)


def _error_reply(error: ApiError, request: web.BaseRequest) -> web.Response:
    if error.kind == error.status.phrase and error.status in _PLAIN:
        body = error.plain()
    elif request.path.startswith("/v1/messages"):
        body = error.anthropic()
    else:
        body = error.openai()
    return json_reply(body, request, error.status)


def _refusal_reply(refusal: RefusalError, request: web.BaseRequest) -> web.Response:
    status = refusal.status
    kind, message = _REFUSALS.get(status, (status.phrase, status.phrase))
    response = _error_reply(ApiError(message, status=status, kind=kind), request)
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(refusal.retry_after_s)
    return response


def _failed(request: web.BaseRequest) -> web.Response:
    if request.writer.output_size:
        _reset(request)  # vLLM's stream would break off as well
        return web.Response()
    return _refusal_reply(RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR), request)


def _reset(request: web.BaseRequest) -> None:
    """Close a connection as a crashed peer does, so that its client sees a reset."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
        )
        transport.abort()
