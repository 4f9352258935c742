"""A worker's end of what the supervisor asks: one gRPC service on a unix socket."""

from __future__ import annotations

from pathlib import Path

import grpc


class SocketServer:
    """Between `start` and `stop`."""

    def __init__(self, handler: grpc.GenericRpcHandler) -> None:
        """``handler``: of the service."""
        self._handler = handler
        self._server: grpc.aio.Server | None = None

    async def start(self, socket: Path) -> None:
        """Listen on a unix socket."""
        self._server = grpc.aio.server()  # it takes the loop that runs now
        self._server.add_generic_rpc_handlers((self._handler,))
        socket.unlink(missing_ok=True)  # noqa: ASYNC240 - once, in our own folder
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening, and remove the socket."""
        if self._server is not None:
            await self._server.stop(None)
