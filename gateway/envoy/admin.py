"""Envoy's admin interface, over its unix socket."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
import orjson

_TIMEOUT_S: Final = 2.0


class EnvoyAdmin:
    """The few questions that we ask Envoy. Use it as an async context manager."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            base_url="http://envoy",
            connector=aiohttp.UnixConnector(path=str(socket)),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            raise_for_status=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def serving(self) -> bool:
        """Whether Envoy is live and listens for clients. Raises OSError when it does not answer."""
        try:
            await self._text("GET", "/ready")
            return "clients::" in await self._text("GET", "/listeners")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"Envoy's admin interface: {error}") from error

    async def refused(self) -> list[str]:
        """Why Envoy refused parts of its configuration, a text for each. Raises OSError when it
        does not answer."""
        try:
            dump = orjson.loads(await self._text("GET", "/config_dump"))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"Envoy's admin interface: {error}") from error
        found = []
        for part in dump.get("configs", []):
            for key in ("dynamic_listeners", "dynamic_active_clusters", "dynamic_warming_clusters"):
                for resource in part.get(key, []):
                    state = resource.get("error_state")
                    if state:
                        found.append(str(state.get("details", state)))
        return found

    async def active_requests(self) -> int:
        """Number of clients' requests under way."""
        name = "http.clients.downstream_rq_active"
        text = await self._text("GET", f"/stats?filter=^{name}$")
        _, _, value = text.strip().partition(": ")
        return int(value) if value.isdigit() else 0

    async def drain(self) -> None:
        """Close the listeners. Running requests go on, and their connections close after them."""
        await self._text("POST", "/drain_listeners?graceful&skip_exit")
        await self._text("POST", "/drain_listeners")

    async def _text(self, method: str, path: str) -> str:
        async with self._session.request(method, path) as response:
            return await response.text()
